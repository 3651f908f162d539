/* Values of sums: log-sum-exps, those of the rows of a matrix, and quotients of a sum and the term of its max. */

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

/* An integer of 0 or more as a pair. */
INLINE void pair_of_integer(int64_t n, double *high, double *low) {
    *high = (double)n;
    *low = (double)(int64_t)((uint64_t)n - (uint64_t)*high);
}

static void values_of(const record *records, size_t n, double *out) {
    totals t;
    for (size_t from = 0; from < n; from += BATCH) {
        size_t size = n - from < BATCH ? n - from : BATCH;
        int64_t most = 0;
        for (size_t i = 0; i < size; i++) most = records[from + i].count > most ? records[from + i].count : most;
        if (most <= 1) { /* single terms are their maximum */
            for (size_t i = 0; i < size; i++) out[from + i] = records[from + i].max;
            continue;
        }
        for (size_t i = 0; i < LANES_FOR(size); i++) {
            double of_one[5] = {0.0, 0.0, 0.0, 0.0, 0.0};
            t.max[i] = t.near[i] = t.others[i] = t.others_low[i] = 0.0, t.base[i] = 0;
            if (i < size && isfinite(records[from + i].max)) {
                state s = load(records + from + i, NATURAL);
                t.max[i] = s.max, t.near[i] = is_near(s.max, NATURAL) ? s.max : 0.0;
                pair_of_integer(s.ties - 1, &t.others[i], &t.others_low[i]);
                if (s.base != NO_BASE) {
                    digits_of(s.limb, of_one);
                    t.base[i] = s.base;
                }
            }
            for (int d = 0; d < 5; d++) t.digits[d][i] = of_one[d];
        }
        double value[BATCH];
        loops->finish(&t, LANES_FOR(size), value);
        for (size_t i = 0; i < size; i++) out[from + i] = isfinite(records[from + i].max) ? value[i] : records[from + i].max;
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

/* The product of a double-double and an integer of 0 or more. */
static void times_integer(double *high, double *low, int64_t n) {
    double n_high, n_low, ph, pl;
    pair_of_integer(n, &n_high, &n_low);
    two_prod_portable(*high, n_high, &ph, &pl);
    quick_two_sum_portable(ph, pl + (*high * n_low + *low * n_high), high, low);
}

/* The sum S of a state in terms of its max: with T the term of the max, or 1 where that is too far, q = |S| / (n T). */
typedef struct {
    double sign;              /* of S; 0 where S is 0 */
    double log_high, log_low; /* ln q */
    double high, low;         /* q */
} quotient;

/* Writes ln q = ln((1 + y) 2^power). */
static void set_log(quotient *q, double y, double y_low, double power) {
    double high, low, error;
    quick_two_sum_portable(y, y_low, &y, &y_low);
    log1p_pair_portable(y, y_low, &high, &low);
    two_sum_portable(power * LN2_HIGH, high, &high, &error);
    quick_two_sum_portable(high, low + (error + power * LN2_LOW), &q->log_high, &q->log_low);
}

/* Writes the logarithm of a q that is not near 1. */
static void set_log_of_itself(quotient *q, int64_t apart) {
    int exponent;
    frexp(q->high, &exponent);
    set_log(q, ldexp(q->high, 1 - exponent) - 1.0, ldexp(q->low, 1 - exponent), (double)(exponent - 1 + apart));
}

static quotient quotient_of(const state *s, int64_t n, scale c) {
    quotient q = {1.0, 0.0, 0.0, 1.0, 0.0};
    if (!isfinite(s->max)) {
        q.sign = isinf(s->max) ? s->max > 0.0 : NAN;
        return q;
    }
    double term = 1.0, term_low = 0.0, high, low, others, others_low, error;
    int64_t exponent = 0;
    if (is_near(s->max, c)) own_term(s->max, c, &term, &term_low, &exponent);
    quick_two_sum_portable(term, term_low, &term, &term_low);
    /* (ties - 1) + rest / T, in which even a tiny rest is fully accurate */
    pair_of(s->limb, &high, &low);
    divide(high, low, term, term_low, &high, &low);
    int64_t shift = s->base == NO_BASE || s->base - exponent < 2 * LEAST_SHIFT ? 2 * LEAST_SHIFT : s->base - exponent;
    high = ldexp(high, (int)shift), low = ldexp(low, (int)shift);
    if (high < 0x1p-900) low = 0.0; /* high alone is rounded once, and low would be of few bits */
    pair_of_integer(s->ties - 1, &others, &others_low);
    two_sum_portable(others, high, &high, &error);
    quick_two_sum_portable(high, error + (low + others_low), &high, &low);
    two_sum_portable(1.0, high, &q.high, &error);
    quick_two_sum_portable(q.high, error + low, &q.high, &q.low);
    if (n == 1) {
        set_log(&q, high, low, 0.0);
        return q;
    }
    double n_high, n_low;
    pair_of_integer(n, &n_high, &n_low);
    divide(q.high, q.low, n_high, n_low, &q.high, &q.low);
    if (q.high < 0.5) {
        set_log_of_itself(&q, 0);
        return q;
    }
    /* S - n T is exact in integers: what is equal cancels. */
    int64_t base, own[3];
    wide rest[3];
    total_of(s, c, &base, own, rest);
    for (int j = 0; j < 3; j++) rest[j] -= (wide)n * own[j];
    int below = magnitude(rest, rest);
    pair_of(rest, &high, &low);
    term = ldexp(term, (int)(exponent - base)), term_low = ldexp(term_low, (int)(exponent - base));
    times_integer(&term, &term_low, n);
    divide(high, low, term, term_low, &high, &low);
    set_log(&q, below ? -high : high, below ? -low : low, 0.0);
    return q;
}

static void quotients_of(const record *records, const int64_t *counts, size_t n, scale c, quotient *out) {
    for (size_t i = 0; i < n; i++) {
        state s = load(records + i, c);
        out[i] = quotient_of(&s, counts[i], c);
    }
}

/* 1 / S of a state as (high + low) 2^exponent; NaN where S is 0, infinite or NaN. */
typedef struct {
    double high, low, max;
    int64_t exponent, is_far;
} reciprocal;

/* Of a sum of limbs on the grid of a base. */
static void set_reciprocal(reciprocal *r, const wide limb[3], int64_t base) {
    wide sum[3];
    double high, low;
    int exponent, negative = magnitude(limb, sum);
    pair_of(sum, &high, &low);
    if (high == 0.0) return;
    frexp(high, &exponent);
    divide(1.0, 0.0, ldexp(high, -exponent), ldexp(low, -exponent), &r->high, &r->low);
    if (negative) r->high = -r->high, r->low = -r->low;
    r->exponent = -exponent - base;
}

static reciprocal reciprocal_of(const state *s, scale c) {
    reciprocal r = {NAN, 0.0, s->max, 0, isfinite(s->max) && !is_near(s->max, c)};
    if (!isfinite(s->max)) return r;
    int64_t base, own[3];
    wide total[3];
    total_of(s, c, &base, own, total);
    set_reciprocal(&r, total, base);
    return r;
}

static void reciprocals_of(const record *records, size_t n, scale c, reciprocal *out) {
    for (size_t i = 0; i < n; i++) {
        state s = load(records + i, c);
        out[i] = reciprocal_of(&s, c);
    }
}
