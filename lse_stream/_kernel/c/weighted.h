/* Weights and scales: sums of w e^(c x), by group, and e^(c x) over such sums. */

/* Adds a product with |c x| < 2^60. */
static void add_product(state *s, double x, double high, double low, int64_t exponent) {
    if (s->max != s->max || (s->max > x && !is_near_base(s->base))) return;
    int64_t base = base_of_exponent(exponent + (int64_t)((bits_of(high) >> 52) & 0x7ff) - 1023);
    if (!is_near_base(s->base)) {
        s->limb[0] = s->limb[1] = s->limb[2] = 0;
        s->base = base;
    } else if (base > s->base) {
        move_to(s->limb, s->base, base);
        s->base = base;
    }
    if (x > s->max) s->max = x + 0.0;
    int64_t biased = exponent + 1023 - s->base;
    if (biased <= 0) return;
    int64_t limb[3];
    double power = double_of((uint64_t)biased << 52);
    limbs_of_pair(high * power, low * power, limb);
    for (int j = 0; j < 3; j++) s->limb[j] += limb[j];
}

/* Adds w e^(c x) where x is NaN, +inf or |c x| >= 2^60. So far out the largest x alone counts, and the weights of its ties
   are summed. Does nothing for other rows. */
static void add_exceptional(state *s, double x, double w, scale c, int is_signed) {
    if (w == 0.0 || x == -INFINITY || is_near_in(x, c) || s->max != s->max || x < s->max) return;
    if (x != x) {
        set_nan(s);
        return;
    }
    state part = {0, x, NO_BASE, {0, 0, 0}};
    if (!is_signed) {
        part.limb[0] = isfinite(x);
    } else if (isinf(x)) {
        part.limb[0] = w > 0.0 ? 1 : -1;
    } else {
        int64_t limb[3];
        int exponent;
        double fraction = frexp(w, &exponent);
        int64_t base = base_of_exponent(exponent - 1);
        limbs_of_pair(ldexp(fraction, exponent - (int)base), 0.0, limb);
        part.base = FAR_BASE + base;
        for (int j = 0; j < 3; j++) part.limb[j] = limb[j];
    }
    merge(s, part);
}

INLINE int is_natural(scale c) { return c.high == 1.0 && c.low == 0.0; }

/* The products of n <= ROWS rows, in the faster way where x, w and c allow it. */
static void weigh_rows(const double *x, const double *w, size_t n, scale c, products *p) {
    if (is_natural(c)) loops->weigh_near(x, w, n, c, p);
    if (!is_natural(c) || p->exceptional) loops->weigh_any(x, w, n, c, p);
}

static const double ONES[ROWS] = {[0 ... ROWS - 1] = 1.0};

/* Adds n <= ROWS rows to one state; without weights (w is NULL) every one is 1. */
static void add_run(state *s, const double *x, const double *w, size_t n, scale c, products *p) {
    const double *weights = w ? w : ONES;
    state part = {(int64_t)n, -INFINITY, NO_BASE, {0, 0, 0}};
    weigh_rows(x, weights, n, c, p);
    if (p->top != NO_EXPONENT) {
        int64_t sums[3];
        part.max = p->max + 0.0;
        part.base = base_of_exponent(p->top);
        loops->sum_products(p, LANES_FOR(n), part.base, sums);
        for (int j = 0; j < 3; j++) part.limb[j] = sums[j];
    }
    merge(s, part);
    for (size_t i = 0; p->exceptional && i < n; i++) add_exceptional(s, x[i], weights[i], c, w != NULL);
}

/* Adds e^(c x). */
static void add_term(state *s, double x, scale c) {
    s->count++;
    if (!is_near_in(x, c)) {
        add_exceptional(s, x, 1.0, c, 0);
        return;
    }
    double high, low;
    uint64_t steps, turns;
    scaled_term(x, c, &high, &low, &steps, &turns);
    add_product(s, x, high, low, exponent_of(steps, turns));
}

/* Adds w e^(c x) to the states of their codes; without weights every one is 1. */
static int add_terms(state *states, const int32_t *codes, const double *x, const double *w, size_t n, scale c) {
    products *p = malloc(sizeof *p);
    if (!p) return NO_MEMORY;
    for (size_t i = 0; i < n; i += ROWS) {
        size_t size = n - i < ROWS ? n - i : ROWS;
        if (count_runs(codes + i, size) == 1) {
            add_run(states + codes[i], x + i, w ? w + i : NULL, size, c, p);
            continue;
        }
        const double *weights = w ? w + i : ONES;
        weigh_rows(x + i, weights, size, c, p);
        for (size_t j = 0; j < size; j++) {
            state *s = states + codes[i + j];
            __builtin_prefetch(states + codes[i + (j + PREFETCH_STATES < size ? j + PREFETCH_STATES : j)], 1);
            if (p->exponent[j] != NO_EXPONENT) add_product(s, x[i + j], p->high[j], p->low[j], p->exponent[j]);
            s->count++;
        }
        for (size_t j = 0; p->exceptional && j < size; j++)
            add_exceptional(states + codes[i + j], x[i + j], weights[j], c, w != NULL);
    }
    free(p);
    return DONE;
}

static int group_terms(record *records, size_t groups, const int32_t *codes, const double *x, const double *w, size_t n,
                       scale c) {
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    state *states = allocate(groups * sizeof(state));
    if (!states) return NO_MEMORY;
    for (size_t i = 0; i < groups; i++) states[i] = EMPTY;
    int result = add_terms(states, codes, x, w, n, c);
    for (size_t i = 0; i < groups; i++) store(records + i, states + i);
    free(states);
    return result;
}

/* 1 / S of a state as (high + low) 2^exponent. */
typedef struct {
    double high, low, max;
    int64_t exponent, is_far;
} reciprocal;

static reciprocal reciprocal_of(const state *s) {
    reciprocal r = {NAN, 0.0, s->max, 0, 0};
    if (!isfinite(s->max)) return r;
    wide sum[3];
    double high, low;
    int exponent, negative = magnitude(s->limb, sum);
    pair_of(sum, &high, &low);
    if (high == 0.0) return r;
    frexp(high, &exponent);
    divide(1.0, 0.0, ldexp(high, -exponent), ldexp(low, -exponent), &r.high, &r.low);
    if (negative) r.high = -r.high, r.low = -r.low;
    r.is_far = !is_near_base(s->base);
    r.exponent = -exponent - (s->base == NO_BASE ? 0 : r.is_far ? s->base - FAR_BASE : s->base);
    return r;
}

static void reciprocals_of(const record *records, size_t n, reciprocal *out) {
    for (size_t i = 0; i < n; i++) {
        state s = load(records + i);
        out[i] = reciprocal_of(&s);
    }
}

/* e^(c x) / S, with S the sum whose reciprocal the code of each row names. */
static int softmax_by(const reciprocal *table, size_t groups, const int32_t *codes, const double *x, size_t n, scale c,
                      double *out) {
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    products *p = malloc(sizeof *p);
    factors *f = malloc(sizeof *f);
    if (!p || !f) {
        free(p), free(f);
        return NO_MEMORY;
    }
    for (size_t i = 0; i < ROWS; i++) f->high[i] = f->low[i] = 0.0, f->exponent[i] = 0; /* also beyond the last row */
    for (size_t i = 0; i < n; i += ROWS) {
        size_t size = n - i < ROWS ? n - i : ROWS;
        int any_far = 0;
        weigh_rows(x + i, ONES, size, c, p);
        for (size_t j = 0; j < size; j++) {
            const reciprocal *r = table + codes[i + j];
            f->high[j] = r->high, f->low[j] = r->low, f->exponent[j] = r->exponent;
            any_far |= r->is_far;
        }
        loops->multiply(p, f, size, out + i);
        if (!any_far && !p->exceptional) continue;
        for (size_t j = 0; j < size; j++) {
            const reciprocal *r = table + codes[i + j];
            double v = x[i + j];
            if (r->high != r->high || v != v)
                out[i + j] = NAN;
            else if (r->is_far && v == r->max)
                out[i + j] = ldexp(r->high, (int)r->exponent);
            else if (r->is_far || !is_near_in(v, c))
                out[i + j] = r->is_far && v < r->max ? 0.0 : v > 0.0 || r->is_far ? copysign(INFINITY, r->high) : 0.0;
        }
    }
    free(p), free(f);
    return DONE;
}
