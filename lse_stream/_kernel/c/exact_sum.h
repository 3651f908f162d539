/* Exact sums of doubles, and of products of two, by group. */

/* A sum of products of doubles as an integer in units of 2^UNIT: chunk i counts 2^(32 i) of them. After R. M. Neal, "Fast
   exact summation using small and large superaccumulators" (2015). The number alone decides its digits: they are the
   canonical form. */
#define WORDS (MOST_WORDS + 2) /* of the sign, and of stored sums that are merged, at most two more */
#define ADDITIONS 256          /* before carries are propagated: each adds less than 2^54 to a chunk, which holds 2^63 */

typedef struct {
    int64_t chunk[2 * WORDS];
    int first, last; /* of the chunks that are not 0 */
    uint32_t additions;
    uint32_t special;
} exact_sum;

/* As it is stored: this head, then words of 64 bits in two's complement, the lowest first; no more than are needed. */
typedef struct {
    uint16_t low; /* place of the first word */
    uint16_t words;
    uint32_t special;
} exact_head;

/* Whether a sum that can be read is stored at each place among so many words. */
static int are_sums(const uint64_t *words, size_t size, const int64_t *at, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (at[i] < 0 || (uint64_t)at[i] >= size) return 0;
        exact_head head;
        memcpy(&head, words + at[i], sizeof head);
        if (head.low + head.words > MOST_WORDS || head.words >= size - (size_t)at[i]) return 0;
        if (head.special > NOT_A_NUMBER) return 0;
    }
    return 1;
}

/* The head of a stored sum that can be read; bounded, as what it is read from might be written meanwhile. */
static exact_head head_of(const uint64_t *stored) {
    exact_head head;
    memcpy(&head, stored, sizeof head);
    head.words = head.words < MOST_WORDS ? head.words : MOST_WORDS;
    head.low = head.low < MOST_WORDS - head.words ? head.low : (uint16_t)(MOST_WORDS - head.words);
    head.special &= NOT_A_NUMBER;
    return head;
}

static void clear(exact_sum *s) {
    memset(s, 0, sizeof *s);
    s->first = CHUNKS;
    s->last = -1;
}

/* Clears a sum whose carries were propagated, or that has none: no chunk but these is not 0. */
static void clear_used(exact_sum *s) {
    if (s->last >= s->first) memset(s->chunk + s->first, 0, (size_t)(s->last - s->first + 1) * sizeof s->chunk[0]);
    s->first = CHUNKS;
    s->last = -1;
    s->additions = s->special = 0;
}

static void propagate(exact_sum *s) {
    int64_t carry = 0;
    int i = s->first;
    for (; i < 2 * WORDS - 3 && (i <= s->last || (carry != 0 && carry != -1)); i++) {
        int64_t total = s->chunk[i] + carry;
        s->chunk[i] = total & 0xffffffff;
        carry = total >> 32;
    }
    if (carry) /* the sign: the top chunk alone is negative */
        s->chunk[i] += carry;
    else
        i--;
    s->last = i > s->last ? i : s->last;
    s->additions = 0;
}

/* Adds +-bits 2^shift to a chunk and the next, bits < 2^53. */
INLINE void add_to_chunks(int64_t *chunk, int shift, uint64_t bits, int64_t negative) {
    int64_t low = (int64_t)(bits << shift & 0xffffffff), high = (int64_t)(bits >> (32 - shift));
    chunk[0] += (low ^ -negative) + negative;
    chunk[1] += (high ^ -negative) + negative;
}

/* Adds +-bits 2^at units, bits < 2^53. */
INLINE void add_bits(exact_sum *s, int at, uint64_t bits, int64_t negative) {
    int chunk = at >> 5;
    add_to_chunks(s->chunk + chunk, at & 31, bits, negative);
    s->first = chunk < s->first ? chunk : s->first;
    s->last = chunk + 1 > s->last ? chunk + 1 : s->last;
}

/* The integer m of x = +-m 2^exponent. */
INLINE uint64_t mantissa_of(double x, int *exponent) {
    uint64_t bits = bits_of(x) & 0x7fffffffffffffffULL, field = bits >> 52;
    *exponent = (int)(field ? field : 1) - 1075;
    return (bits & 0xfffffffffffffULL) | (uint64_t)(field != 0) << 52;
}

/* Adds a b. Where b is 0 that is 0, also for a NaN or infinite a. */
INLINE void add_product_of(exact_sum *s, double a, double b) {
    if (b == 0.0) return;
    if (!isfinite(a) || !isfinite(b)) {
        double product = a * b;
        s->special |= product != product ? NOT_A_NUMBER : product > 0 ? PLUS_INFINITY : MINUS_INFINITY;
        return;
    }
    int of_a, of_b, negative = signbit(a) != signbit(b);
    uint64_t ma = mantissa_of(a, &of_a), mb = mantissa_of(b, &of_b);
    if (b == 1.0 || b == -1.0) {
        add_bits(s, of_a - UNIT, ma, negative);
    } else {
        unsigned __int128 m = (unsigned __int128)ma * mb;
        int at = of_a + of_b - UNIT;
        add_bits(s, at, (uint64_t)m & ((1ULL << 53) - 1), negative);
        add_bits(s, at + 53, (uint64_t)(m >> 53), negative);
    }
    if (++s->additions == ADDITIONS) propagate(s);
}

/* Many numbers: the bits of each are added to a chunk of its sign and exponent, as in the large superaccumulator of the same
   paper. A chunk has room for 2^12 of 52 bits; the bit that they do not have is counted. */
#define MANY 4096          /* numbers from which on that pays */
#define EXPONENTS (1 << 12) /* with the sign */

typedef struct {
    uint64_t chunk[EXPONENTS];
    uint16_t count[EXPONENTS];
} many_numbers;

static void empty_chunk(exact_sum *s, many_numbers *m, size_t i) {
    int field = (int)(i & 0x7ff), at = (field ? field : 1) - 1075 - UNIT;
    unsigned __int128 bits = m->chunk[i] + ((unsigned __int128)(field ? m->count[i] : 0) << 52);
    for (; bits; bits >>= 52, at += 52) add_bits(s, at, (uint64_t)bits & 0xfffffffffffffULL, i >> 11);
    m->chunk[i] = 0, m->count[i] = 0;
    if ((s->additions += 2) >= ADDITIONS) propagate(s);
}

static int add_many(exact_sum *s, const double *x, size_t n) {
    many_numbers *m = calloc(1, sizeof *m);
    if (!m) return NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        uint64_t bits = bits_of(x[i]);
        size_t place = bits >> 52;
        if (__builtin_expect((place & 0x7ff) == 0x7ff, 0)) {
            add_product_of(s, x[i], 1.0);
            continue;
        }
        m->chunk[place] += bits & 0xfffffffffffffULL;
        if (__builtin_expect(++m->count[place] == 1 << 12, 0)) empty_chunk(s, m, place);
    }
    for (size_t place = 0; place < EXPONENTS; place++)
        if (m->count[place]) empty_chunk(s, m, place);
    free(m);
    return DONE;
}

static void add_stored(exact_sum *s, const uint64_t *stored) {
    exact_head head = head_of(stored);
    s->special |= head.special;
    for (int i = 0; i < head.words; i++) {
        int64_t upper = (int64_t)stored[1 + i] >> 32; /* the last word contains the sign */
        int at = 2 * (head.low + i);
        s->chunk[at] += (int64_t)(stored[1 + i] & 0xffffffff);
        s->chunk[at + 1] += i + 1 < head.words ? (int64_t)(uint32_t)upper : upper;
    }
    if (head.words) {
        s->first = 2 * head.low < s->first ? 2 * head.low : s->first;
        s->last = 2 * (head.low + head.words) - 1 > s->last ? 2 * (head.low + head.words) - 1 : s->last;
    }
    if (++s->additions == ADDITIONS) propagate(s);
}

/* Writes a sum, and clears it; returns how many words that took. */
static size_t store_exact(exact_sum *s, uint64_t out[1 + WORDS]) {
    exact_head head = {0, 0, s->special};
    if (!s->special && s->last >= 0) {
        propagate(s);
        int low = s->first / 2, high = s->last / 2 + 1;
        for (int i = low; i <= high; i++)
            out[1 + i - low] = (uint64_t)s->chunk[2 * i] + ((uint64_t)s->chunk[2 * i + 1] << 32);
        if (s->chunk[s->last] < 0) /* the sign, in all that is above it */
            for (int i = s->last + 1; i < 2 * high + 2; i++)
                out[1 + i / 2 - low] |= 0xffffffffULL << (i % 2 * 32);
        int n = high - low + 1, skip = 0;
        while (n && (out[n] == 0 || (n > 1 && out[n] == ~0ULL)) && (n > 1 ? (int64_t)(out[n - 1] ^ out[n]) >= 0 : 1)) n--;
        while (skip < n && out[1 + skip] == 0) skip++;
        memmove(out + 1, out + 1 + skip, (size_t)(n - skip) * 8);
        head.words = (uint16_t)(n - skip);
        head.low = (uint16_t)(head.words ? low + skip : 0);
    }
    clear_used(s);
    memcpy(out, &head, sizeof head);
    return 1 + head.words;
}

/* Words that grow. */
typedef struct {
    uint64_t *data;
    size_t size, room;
} buffer;

static int append_exact(buffer *b, exact_sum *s) {
    if (b->size + 1 + WORDS > b->room) {
        size_t room = 2 * b->room + 1024;
        uint64_t *data = realloc(b->data, room * 8);
        if (!data) return NO_MEMORY;
        b->data = data, b->room = room;
    }
    b->size += store_exact(s, b->data + b->size);
    return DONE;
}

/* Copies items of 8 bytes to the order of their codes. starts[g] is the first place of code g, and is its end afterwards. */
static void sort_by_code(const int32_t *codes, const void *items, size_t n, int64_t *starts, void *sorted) {
    for (size_t i = 0; i < n; i++) memcpy((char *)sorted + 8 * starts[codes[i]]++, (const char *)items + 8 * i, 8);
}

/* The sums of each group, and where each begins among the words: of products a b (b may be NULL: 1), or of the sums stored
   among words at the places a. */
static int sum_groups(const int32_t *codes, const void *a, const double *b, const uint64_t *words, size_t n, size_t groups,
                      int64_t *begins, buffer *out) {
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    int result = NO_MEMORY, is_sorted = codes_ascend(codes, n), has_other = b && (const void *)b != a;
    size_t size = (groups + 1) * sizeof(int64_t);
    int64_t *ends = allocate(size), *places = allocate(size);
    void *sorted_a = is_sorted ? NULL : allocate(n * 8), *sorted_b = is_sorted || !has_other ? NULL : allocate(n * 8);
    if (ends && places && (is_sorted || (sorted_a && (sorted_b || !has_other)))) {
        memset(ends, 0, size);
        for (size_t i = 0; i < n; i++) ends[codes[i] + 1]++;
        for (size_t g = 0; g < groups; g++) ends[g + 1] += ends[g];
        if (!is_sorted) {
            memcpy(places, ends, size);
            sort_by_code(codes, a, n, places, sorted_a);
            memcpy(places, ends, size);
            if (has_other) sort_by_code(codes, b, n, places, sorted_b);
            a = sorted_a, b = !b ? NULL : has_other ? sorted_b : sorted_a;
        }
        exact_sum s;
        clear(&s);
        result = DONE;
        for (size_t g = 0; g < groups && result == DONE; g++) {
            begins[g] = (int64_t)out->size;
            if (!words && !b && ends[g + 1] - ends[g] >= MANY) {
                result = add_many(&s, (const double *)a + ends[g], (size_t)(ends[g + 1] - ends[g]));
            } else {
                for (int64_t i = ends[g]; i < ends[g + 1]; i++)
                    if (words)
                        add_stored(&s, words + ((const int64_t *)a)[i]);
                    else
                        add_product_of(&s, ((const double *)a)[i], b ? b[i] : 1.0);
            }
            if (result == DONE) result = append_exact(out, &s);
        }
        begins[groups] = (int64_t)out->size;
    }
    free(ends), free(places), free(sorted_a), free(sorted_b);
    return result;
}
