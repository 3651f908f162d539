/* Exact sums as doubles: ratios of integers of many words, rounded once. */

/* A stored sum: words without the sign, the lowest first, of which the first counts 2^(UNIT + 64 low). */
typedef struct {
    uint64_t word[MOST_WORDS];
    int words, low, negative;
    uint32_t special;
} unsigned_sum;

static void negate(uint64_t *word, int n) {
    uint64_t carry = 1;
    for (int i = 0; i < n; i++) {
        word[i] = ~word[i] + carry;
        carry &= word[i] == 0;
    }
}

static void read_sum(unsigned_sum *m, const uint64_t *stored) {
    exact_head head = head_of(stored);
    m->words = head.words, m->low = head.low, m->special = head.special;
    m->negative = head.words && stored[head.words] >> 63;
    memcpy(m->word, stored + 1, (size_t)head.words * 8);
    if (m->negative) negate(m->word, m->words);
}

/* The quotient of n words, the lowest of which counts 2^exponent, by two numbers below 2^63: rounded to nearest, ties to even.
   Of all below the four highest words, and of remainders, it only matters whether they are 0: the quotient of those four
   has at least 65 bits, and a quotient of integers without its fraction may be divided once more. */
static double rounded_quotient(const uint64_t *word, int n, int exponent, int negative, uint64_t divisor, uint64_t divisor2) {
    while (n && !word[n - 1]) n--;
    if (!n) return 0.0;
    uint64_t top[4] = {0}, divisors[2] = {divisor, divisor2}, rest = 0;
    for (int i = n - 1, j = 3; i >= 0; i--, j--)
        if (j >= 0)
            top[j] = word[i];
        else
            rest |= word[i];
    for (int k = 0; k < 2; k++) {
        if (divisors[k] == 1) continue;
        uint64_t remainder = 0;
        for (int j = 3; j >= 0; j--) {
            unsigned __int128 part = (unsigned __int128)remainder << 64 | top[j];
            top[j] = (uint64_t)(part / divisors[k]);
            remainder = (uint64_t)part - top[j] * divisors[k];
        }
        rest |= remainder;
    }
    int first = 3;
    while (!top[first]) first--;
    int zeros = __builtin_clzll(top[first]);
    unsigned __int128 aligned = ((unsigned __int128)top[first] << 64 | top[first - 1]) << zeros;
    uint64_t bits = (uint64_t)(aligned >> 64); /* the highest is that of 2^power */
    rest |= (uint64_t)aligned;
    for (int j = first - 2; j >= 0; j--) rest |= top[j];
    int power = exponent + 64 * (n - 4 + first) + 63 - zeros, subnormal = power < -1022 ? -1022 - power : 0;
    uint64_t sign = (uint64_t)negative << 63;
    if (power > 1023) return double_of(sign | bits_of(INFINITY));
    if (power < -1075) return double_of(sign);
    int dropped = 11 + subnormal; /* at most 64 */
    uint64_t kept = dropped < 64 ? bits >> dropped : 0, below = bits << (64 - dropped), half = 1ULL << 63;
    kept += below > half || (below == half && (rest || kept & 1));
    /* A carry reaches the exponent, and past the largest of them infinity. */
    return double_of(sign | (((uint64_t)(subnormal ? 0 : power + 1022) << 52) + kept));
}

/* A stored sum over a divisor, or its special value; NaN where the divisor is not positive. */
static double exact_value(const uint64_t *stored, int64_t divisor) {
    const double special[] = {0.0, INFINITY, -INFINITY, double_of(THE_NAN)};
    unsigned_sum m;
    read_sum(&m, stored);
    if (divisor <= 0) return special[NOT_A_NUMBER];
    if (m.special) return special[m.special];
    return rounded_quotient(m.word, m.words, UNIT + 64 * m.low, m.negative, (uint64_t)divisor, 1);
}

static int exact_values(const uint64_t *words, size_t size, const int64_t *at, const int64_t *divisors, size_t n, double *out) {
    if (!are_sums(words, size, at, n)) return BAD_SUM;
    for (size_t i = 0; i < n; i++) out[i] = exact_value(words + at[i], divisors[i]);
    return DONE;
}

/* Sums as double-doubles; the low part is 0 where the high one is not finite. */
static int exact_pairs(const uint64_t *words, size_t size, const int64_t *at, size_t n, double (*out)[2]) {
    if (!are_sums(words, size, at, n)) return BAD_SUM;
    exact_sum s;
    clear(&s);
    for (size_t i = 0; i < n; i++) {
        uint64_t rest[1 + WORDS];
        out[i][0] = exact_value(words + at[i], 1), out[i][1] = 0.0;
        if (!isfinite(out[i][0])) continue;
        add_stored(&s, words + at[i]);
        add_product_of(&s, out[i][0], -1.0);
        store_exact(&s, rest);
        out[i][1] = exact_value(rest, 1);
    }
    return DONE;
}

/* Subtracts n words, times a factor, from an integer of size words in two's complement. */
static void subtract_product(uint64_t *from, int size, const uint64_t *word, int n, uint64_t factor) {
    uint64_t borrow = 0;
    for (int i = 0; i < size && (i < n || borrow); i++) {
        unsigned __int128 product = (unsigned __int128)(i < n ? word[i] : 0) * factor + borrow;
        borrow = (uint64_t)(product >> 64) + (from[i] < (uint64_t)product);
        from[i] -= (uint64_t)product;
    }
}

/* (q count - s^2) / (count divisor) of the stored sums s and q; NaN where one is special, or these are not positive. */
static double exact_variance(const uint64_t *stored_s, const uint64_t *stored_q, int64_t count, int64_t divisor) {
    unsigned_sum s, q;
    read_sum(&s, stored_s);
    read_sum(&q, stored_q);
    if (s.special || q.special || count <= 0 || divisor <= 0) return double_of(THE_NAN);
    /* Where both begin, in words of 2^(2 UNIT). Stored sums and counts have a bit for the sign, and so has the difference. */
    int s_at = 2 * s.low, q_at = q.low - UNIT / 64, low = s_at < q_at ? s_at : q_at;
    int s_end = s_at + 2 * s.words, q_end = q_at + q.words + 1, size = (s_end > q_end ? s_end : q_end) - low;
    uint64_t difference[2 * MOST_WORDS];
    memset(difference, 0, (size_t)size * 8);
    s_at -= low, q_at -= low;
    subtract_product(difference + q_at, size - q_at, q.word, q.words, (uint64_t)count);
    if (!q.negative) negate(difference, size);
    for (int i = 0; i < s.words; i++, s_at++)
        subtract_product(difference + s_at, size - s_at, s.word, s.words, s.word[i]);
    int negative = difference[size - 1] >> 63;
    if (negative) negate(difference, size);
    return rounded_quotient(difference, size, 2 * UNIT + 64 * low, negative, (uint64_t)count, (uint64_t)divisor);
}

static int exact_variances(const uint64_t *words_s, size_t size_s, const int64_t *at_s, const uint64_t *words_q, size_t size_q,
                           const int64_t *at_q, const int64_t *counts, const int64_t *divisors, size_t n, double *out) {
    if (!are_sums(words_s, size_s, at_s, n) || !are_sums(words_q, size_q, at_q, n)) return BAD_SUM;
    for (size_t i = 0; i < n; i++) out[i] = exact_variance(words_s + at_s[i], words_q + at_q[i], counts[i], divisors[i]);
    return DONE;
}
