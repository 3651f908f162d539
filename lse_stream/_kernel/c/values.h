/* Values of states: log-sum-exps, those of the rows of a matrix, and quotients of a sum and the term of its max. */

#define LOW_BITS(w) ((double)(int64_t)((w) & (((wide)1 << LIMB_BITS) - 1)))

/* limb[0] + limb[1] 2^-50 + limb[2] 2^-100 as a sum of doubles that do not overlap, the smallest first. */
INLINE void digits_of(const wide limb[3], double digits[5]) {
    wide part = limb[2];
    digits[0] = LOW_BITS(part) * 0x1p-100;
    part = limb[1] + (part >> LIMB_BITS);
    digits[1] = LOW_BITS(part) * 0x1p-50;
    part = limb[0] + (part >> LIMB_BITS);
    digits[2] = LOW_BITS(part);
    part >>= LIMB_BITS;
    digits[3] = LOW_BITS(part) * 0x1p50;
    digits[4] = (double)(int64_t)(part >> LIMB_BITS) * 0x1p100;
}

/* Rounded up to the widest vector of doubles. */
#define LANES_FOR(n) (((n) + 7) / 8 * 8)

/* The terms of the maxima of n <= BATCH states, and each state's limbs less those. The last lanes are filled up. */
static void own_terms(const state *s, size_t n, double max[BATCH], double term[BATCH], double term_low[BATCH],
                      wide rest[BATCH][3]) {
    double x[BATCH];
    uint64_t bias[BATCH];
    int64_t own[3][BATCH];
    for (size_t i = 0; i < LANES_FOR(n); i++) {
        max[i] = i < n ? s[i].max : 0.0;
        x[i] = is_near(max[i]) ? max[i] : 0.0;
        bias[i] = bias_of(i < n && is_near(max[i]) ? s[i].base : 0);
    }
    loops->own_terms(x, bias, LANES_FOR(n), term, term_low, own);
    for (size_t i = 0; i < n; i++) {
        if (!is_near(max[i])) own[0][i] = isfinite(max[i]), own[1][i] = own[2][i] = 0;
        for (int j = 0; j < 3; j++) rest[i][j] = s[i].limb[j] - own[j][i];
    }
}

static void values_of(const record *records, size_t n, double *out) {
    state s[BATCH];
    double max[BATCH], term[BATCH], term_low[BATCH], digits[5][BATCH], value[BATCH];
    wide rest[BATCH][3];
    for (size_t from = 0; from < n; from += BATCH) {
        size_t size = n - from < BATCH ? n - from : BATCH;
        int64_t most = 0;
        for (size_t i = 0; i < size; i++) {
            s[i] = load(records + from + i);
            most = s[i].count > most ? s[i].count : most;
        }
        if (most <= 1) { /* single terms are their maximum */
            for (size_t i = 0; i < size; i++) out[from + i] = s[i].max;
            continue;
        }
        own_terms(s, size, max, term, term_low, rest);
        for (size_t i = 0; i < size; i++) {
            double of_one[5];
            digits_of(rest[i], of_one);
            for (int d = 0; d < 5; d++) digits[d][i] = of_one[d];
        }
        for (size_t i = size; i < LANES_FOR(size); i++)
            for (int d = 0; d < 5; d++) digits[d][i] = 0.0;
        loops->finish(max, term, term_low, digits, LANES_FOR(size), value);
        for (size_t i = 0; i < size; i++) out[from + i] = isfinite(max[i]) ? value[i] : max[i];
    }
}

/* The log-sum-exp of each of n rows: by vectors where these can, else by way of states. */
static void row_values(const double *x, size_t n, size_t columns, double *out) {
    record records[BATCH];
    int done = columns > 0 && columns <= FLUSH;
    if (done) loops->rows(x, n, columns, out);
    for (size_t from = 0; from < n; from += BATCH) {
        size_t size = n - from < BATCH ? n - from : BATCH, place[BATCH], held = 0;
        double values[BATCH];
        for (size_t i = from; i < from + size; i++) {
            if (done && out[i] == out[i]) continue;
            state s = EMPTY;
            add_all(&s, x + i * columns, columns);
            store(records + held, &s);
            place[held++] = i;
        }
        values_of(records, held, values);
        for (size_t i = 0; i < held; i++) out[place[i]] = values[i];
    }
}

/* Writes the limbs of the absolute value; returns whether the sum is negative. */
static int magnitude(const wide limb[3], wide out[3]) {
    int negative = is_negative(limb);
    for (int j = 0; j < 3; j++) out[j] = limb[j];
    for (int j = 0; negative && j < 3; j++) out[j] = -out[j]; /* a branch: quicker than a choice for each limb */
    return negative;
}

/* limb[0] + limb[1] 2^-50 + limb[2] 2^-100 >= 0, as a double-double. */
static void pair_of(const wide limb[3], double *high, double *low) {
    double digits[5], error;
    digits_of(limb, digits);
    *high = digits[0], *low = 0.0;
    for (int d = 1; d < 5; d++) {
        two_sum_portable(digits[d], *high, high, &error);
        quick_two_sum_portable(*high, error + *low, high, low);
    }
}

/* The quotient of two double-doubles. */
static void divide(double ah, double al, double bh, double bl, double *qh, double *ql) {
    double q = ah / bh, ph, pl;
    two_prod_portable(q, bh, &ph, &pl);
    quick_two_sum_portable(q, ((((ah - ph) - pl) + al) - q * bl) / bh, qh, ql);
}

/* The sum S of a state in terms of its max: with T the term of the max, or 1 where that is too far, q = |S| / (n T). */
typedef struct {
    double sign;              /* of S; 0 where S is 0 */
    double log_high, log_low; /* ln q */
    double high, low;         /* q */
} quotient;

static quotient quotient_of(const state *s, int64_t n, scale c) {
    quotient q = {1.0, 0.0, 0.0, 1.0, 0.0};
    if (!isfinite(s->max)) {
        q.sign = isinf(s->max) ? (s->max < 0.0 ? 0.0 : s->limb[0] < 0 ? -1.0 : 1.0) : NAN;
        return q;
    }
    wide sum[3], rest[3];
    int64_t own[3] = {1, 0, 0}, base = s->base == NO_BASE ? NO_BASE : FAR_BASE;
    double term = 1.0, term_low = 0.0, sum_high, sum_low, rest_high, rest_low, ph, pl, y, y_low;
    if (is_near_base(s->base)) own_term(s->max, c, &base, &term, &term_low, own);
    int negative = magnitude(s->limb, sum);
    pair_of(sum, &sum_high, &sum_low);
    if (sum_high == 0.0) return (quotient){0.0, -INFINITY, 0.0, 0.0, 0.0};
    /* n T */
    quick_two_sum_portable(term, term_low, &term, &term_low);
    double n_high = (double)n, n_low = (double)(int64_t)((uint64_t)n - (uint64_t)n_high);
    two_prod_portable(term, n_high, &ph, &pl);
    quick_two_sum_portable(ph, pl + (term * n_low + term_low * n_high), &term, &term_low);
    q.sign = negative ? -1.0 : 1.0;
    divide(sum_high, sum_low, term, term_low, &q.high, &q.low);
    double power = 0.0;
    if (s->base == base && q.high >= 0.5) {
        /* S - n T is exact in integers: ties cancel, and even a tiny rest is fully accurate. */
        for (int j = 0; j < 3; j++) rest[j] = sum[j] - (wide)n * own[j];
        int below = magnitude(rest, rest);
        pair_of(rest, &rest_high, &rest_low);
        divide(rest_high, rest_low, term, term_low, &y, &y_low);
        if (below) y = -y, y_low = -y_low;
    } else {
        int64_t apart = s->base - base;
        int exponent;
        frexp(q.high, &exponent);
        y = ldexp(q.high, 1 - exponent) - 1.0, y_low = ldexp(q.low, 1 - exponent);
        power = (double)(exponent - 1 + apart);
        apart = apart < -MOST_SHIFT ? -MOST_SHIFT : apart > MOST_SHIFT ? MOST_SHIFT : apart;
        q.high = ldexp(q.high, (int)apart), q.low = ldexp(q.low, (int)apart);
    }
    double high, low, error;
    quick_two_sum_portable(y, y_low, &y, &y_low);
    log1p_pair_portable(y, y_low, &high, &low);
    two_sum_portable(power * LN2_HIGH, high, &high, &error);
    quick_two_sum_portable(high, low + (error + power * LN2_LOW), &q.log_high, &q.log_low);
    return q;
}

static void quotients_of(const record *records, const int64_t *counts, size_t n, scale c, quotient *out) {
    for (size_t i = 0; i < n; i++) {
        state s = load(records + i);
        out[i] = quotient_of(&s, counts[i], c);
    }
}
