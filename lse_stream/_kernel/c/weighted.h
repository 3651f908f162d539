/* Weights: sums of w e^(c x), by group; and e^(c x) over sums of either sort. */

/* A sum of products: on the grid of the largest one. Where max is too far, on that of the largest weight of its ties, raised by
   FAR_BASE; where it is infinite, the first limb is the sign. */
typedef struct {
    int64_t count;
    double max;
    int64_t base;
    wide limb[3];
} weighted;

/* As arrays contain it: sums.py describes the fields. */
typedef struct __attribute__((packed)) {
    int64_t count;
    double max;
    int64_t base;
    wide limb[3];
} weighted_record;

static const weighted NOTHING = {0, -INFINITY, NO_BASE, {0, 0, 0}};

static weighted load_weighted(const weighted_record *r) {
    weighted s = {r->count, r->max, r->base, {r->limb[0], r->limb[1], r->limb[2]}};
    return s;
}

static void store_weighted(weighted_record *r, const weighted *s) {
    weighted_record out = {s->count, s->max, s->base, {s->limb[0], s->limb[1], s->limb[2]}};
    memcpy(r, &out, sizeof out);
}

static void set_weighted_nan(weighted *s) {
    int64_t count = s->count;
    *s = NOTHING;
    s->count = count;
    s->max = double_of(THE_NAN);
}

/* Whether a base is of terms, and neither of weights alone nor NO_BASE. */
INLINE int is_near_base(int64_t base) { return base != NO_BASE && base < FAR_BASE / 2; }

/* Adds all that other contains to s; on COUNT_OVERFLOW s is unchanged. */
static int merge_weighted(weighted *s, weighted other) {
    int64_t count;
    if (__builtin_add_overflow(s->count, other.count, &count)) return COUNT_OVERFLOW;
    if (other.max != other.max || s->max != s->max) {
        set_weighted_nan(s);
    } else {
        if (other.max > s->max) {
            weighted smaller = *s;
            *s = other;
            other = smaller;
        }
        if (is_near_base(s->base) ? is_near_base(other.base) : other.max == s->max) {
            if (!isinf(s->max)) {
                int64_t base = s->base > other.base ? s->base : other.base;
                if (s->base != base) move_to(s->limb, s->base, base);
                if (other.base != base) move_to(other.limb, other.base, base);
                for (int j = 0; j < 3; j++) s->limb[j] += other.limb[j];
                s->base = base;
            } else if (s->limb[0] != other.limb[0]) { /* infinities of both signs */
                set_weighted_nan(s);
            }
        }
    }
    s->count = count;
    return DONE;
}

/* Adds a product with |c x| < 2^60. */
static void add_product(weighted *s, double x, double high, double low, int64_t exponent) {
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
    int64_t limb[3];
    limbs_on(high, low, exponent, s->base, limb);
    for (int j = 0; j < 3; j++) s->limb[j] += limb[j];
}

/* Adds w e^(c x) where x is NaN, +inf or |c x| >= 2^60. So far out the largest x alone counts, and the weights of its ties
   are summed. Does nothing for other rows. */
static void add_exceptional(weighted *s, double x, double w, scale c) {
    if (w == 0.0 || x == -INFINITY || is_near(x, c) || s->max != s->max || x < s->max) return;
    if (x != x) {
        set_weighted_nan(s);
        return;
    }
    weighted part = {0, x, NO_BASE, {0, 0, 0}};
    if (isinf(x)) {
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
    merge_weighted(s, part);
}

/* The products of n <= ROWS rows, in the faster way where x, w and c allow it. */
static void weigh_rows(const double *x, const double *w, size_t n, scale c, products *p) {
    if (is_natural(c)) loops->weigh_near(x, w, n, c, p);
    if (!is_natural(c) || p->exceptional) loops->weigh_any(x, w, n, c, p);
}

static const double ONES[ROWS] = {[0 ... ROWS - 1] = 1.0};

/* Adds n <= ROWS rows to one sum. */
static void add_weighted_run(weighted *s, const double *x, const double *w, size_t n, scale c, products *p) {
    weighted part = {(int64_t)n, -INFINITY, NO_BASE, {0, 0, 0}};
    weigh_rows(x, w, n, c, p);
    if (p->top != NO_EXPONENT) {
        int64_t sums[3];
        part.max = p->max + 0.0;
        part.base = base_of_exponent(p->top);
        loops->sum_products(p, LANES_FOR(n), part.base, sums);
        for (int j = 0; j < 3; j++) part.limb[j] = sums[j];
    }
    merge_weighted(s, part);
    for (size_t i = 0; p->exceptional && i < n; i++) add_exceptional(s, x[i], w[i], c);
}

/* Adds w e^(c x) to the sums of their codes. */
static int add_weighted(weighted *sums, const int32_t *codes, const double *x, const double *w, size_t n, scale c) {
    products *p = malloc(sizeof *p);
    if (!p) return NO_MEMORY;
    for (size_t i = 0; i < n; i += ROWS) {
        size_t size = n - i < ROWS ? n - i : ROWS;
        if (count_runs(codes + i, size) == 1) {
            add_weighted_run(sums + codes[i], x + i, w + i, size, c, p);
            continue;
        }
        weigh_rows(x + i, w + i, size, c, p);
        for (size_t j = 0; j < size; j++) {
            weighted *s = sums + codes[i + j];
            __builtin_prefetch(sums + codes[i + (j + PREFETCH_STATES < size ? j + PREFETCH_STATES : j)], 1);
            if (p->exponent[j] != NO_EXPONENT) add_product(s, x[i + j], p->high[j], p->low[j], p->exponent[j]);
            s->count++;
        }
        for (size_t j = 0; p->exceptional && j < size; j++) add_exceptional(sums + codes[i + j], x[i + j], w[i + j], c);
    }
    free(p);
    return DONE;
}

/* Adds n <= ROWS values to one state on a scale. */
static void add_scaled_run(state *s, const double *x, size_t n, scale c, products *p) {
    int64_t sums[3];
    s->count += (int64_t)n;
    if (raise(s, x, n, loops->block_max(x, n), c) == NOT_NEAR) return;
    weigh_rows(x, ONES, n, c, p);
    for (size_t i = 0; i < n; i++) {
        s->ties += x[i] == s->max;
        if (!(x[i] < s->max)) p->exponent[i] = NO_EXPONENT;
    }
    if (s->base == NO_BASE) return;
    loops->sum_products(p, LANES_FOR(n), s->base, sums);
    for (int j = 0; j < 3; j++) s->limb[j] += sums[j];
}

/* Adds e^(c x) to the states of their codes. */
static int add_scaled(state *states, const int32_t *codes, const double *x, size_t n, scale c) {
    products *p = malloc(sizeof *p);
    if (!p) return NO_MEMORY;
    for (size_t i = 0; i < n; i += ROWS) {
        size_t size = n - i < ROWS ? n - i : ROWS;
        if (count_runs(codes + i, size) == 1) {
            add_scaled_run(states + codes[i], x + i, size, c, p);
            continue;
        }
        weigh_rows(x + i, ONES, size, c, p);
        for (size_t j = 0; j < size; j++) {
            state *s = states + codes[i + j];
            __builtin_prefetch(states + codes[i + (j + PREFETCH_STATES < size ? j + PREFETCH_STATES : j)], 1);
            if (!(x[i + j] <= s->second)) {
                add(s, x[i + j], c);
                continue;
            }
            int64_t limb[3];
            s->count++;
            if (s->base == NO_BASE) { /* -inf */
                s->ties += x[i + j] == s->max;
                continue;
            }
            limbs_on(p->high[j], p->low[j], p->exponent[j], s->base, limb);
            for (int l = 0; l < 3; l++) s->limb[l] += limb[l];
        }
    }
    free(p);
    return DONE;
}

static int group_weighted(weighted_record *records, size_t groups, const int32_t *codes, const double *x, const double *w, size_t n,
                          scale c) {
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    weighted *sums = allocate(groups * sizeof(weighted));
    if (!sums) return NO_MEMORY;
    for (size_t i = 0; i < groups; i++) sums[i] = NOTHING;
    int result = add_weighted(sums, codes, x, w, n, c);
    for (size_t i = 0; i < groups; i++) store_weighted(records + i, sums + i);
    free(sums);
    return result;
}

static int group_scaled(record *records, size_t groups, const int32_t *codes, const double *x, size_t n, scale c) {
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    state *states = allocate(groups * sizeof(state));
    if (!states) return NO_MEMORY;
    for (size_t i = 0; i < groups; i++) states[i] = EMPTY;
    int result = add_scaled(states, codes, x, n, c);
    for (size_t i = 0; i < groups; i++) store(records + i, states + i);
    free(states);
    return result;
}

/* Merges weighted sums into those of their codes. */
static int add_weighted_records(weighted_record *records, const int32_t *codes, const weighted_record *others, size_t n) {
    for (size_t i = 0; i < n; i++) {
        weighted s = load_weighted(records + codes[i]);
        if (merge_weighted(&s, load_weighted(others + i))) return COUNT_OVERFLOW;
        store_weighted(records + codes[i], &s);
    }
    return DONE;
}

static int merge_weighted_groups(weighted_record *records, size_t groups, const int32_t *codes, const weighted_record *others, size_t n) {
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    for (size_t i = 0; i < groups; i++) store_weighted(records + i, &NOTHING);
    return add_weighted_records(records, codes, others, n);
}

static quotient weighted_quotient_of(const weighted *s, int64_t n, scale c) {
    quotient q = {1.0, 0.0, 0.0, 1.0, 0.0};
    if (!isfinite(s->max)) {
        q.sign = isinf(s->max) ? (s->max < 0.0 ? 0.0 : s->limb[0] < 0 ? -1.0 : 1.0) : NAN;
        return q;
    }
    wide sum[3], rest[3];
    int64_t own[3] = {1, 0, 0}, base = FAR_BASE;
    double term = 1.0, term_low = 0.0, high, low, y, y_low;
    if (is_near_base(s->base)) {
        int64_t exponent;
        own_term(s->max, c, &term, &term_low, &exponent);
        base = base_of_exponent(exponent);
        limbs_on(term, term_low, exponent, base, own);
        term = ldexp(term, (int)(exponent - base)), term_low = ldexp(term_low, (int)(exponent - base));
    }
    int negative = magnitude(s->limb, sum);
    pair_of(sum, &high, &low);
    if (high == 0.0) return (quotient){0.0, -INFINITY, 0.0, 0.0, 0.0};
    q.sign = negative ? -1.0 : 1.0;
    quick_two_sum_portable(term, term_low, &term, &term_low);
    times_integer(&term, &term_low, n);
    divide(high, low, term, term_low, &q.high, &q.low);
    if (s->base == base && q.high >= 0.5) {
        /* S - n T is exact in integers: even a tiny rest is fully accurate. */
        for (int j = 0; j < 3; j++) rest[j] = sum[j] - (wide)n * own[j];
        int below = magnitude(rest, rest);
        pair_of(rest, &high, &low);
        divide(high, low, term, term_low, &y, &y_low);
        set_log(&q, below ? -y : y, below ? -y_low : y_low, 0.0);
        return q;
    }
    int64_t apart = s->base - base;
    set_log_of_itself(&q, apart);
    apart = apart < -MOST_SHIFT ? -MOST_SHIFT : apart > MOST_SHIFT ? MOST_SHIFT : apart;
    q.high = ldexp(q.high, (int)apart), q.low = ldexp(q.low, (int)apart);
    return q;
}

static void weighted_quotients_of(const weighted_record *records, const int64_t *counts, size_t n, scale c, quotient *out) {
    for (size_t i = 0; i < n; i++) {
        weighted s = load_weighted(records + i);
        out[i] = weighted_quotient_of(&s, counts[i], c);
    }
}

static void weighted_reciprocals_of(const weighted_record *records, size_t n, reciprocal *out) {
    for (size_t i = 0; i < n; i++) {
        weighted s = load_weighted(records + i);
        int is_far = isfinite(s.max) && !is_near_base(s.base);
        out[i] = (reciprocal){NAN, 0.0, s.max, 0, is_far};
        if (isfinite(s.max) && s.base != NO_BASE) set_reciprocal(out + i, s.limb, is_far ? s.base - FAR_BASE : s.base);
    }
}

/* What a softmax of up to ROWS rows is made of. */
typedef struct {
    products products;
    factors factors;
} softmax_batch;

static softmax_batch *new_softmax_batch(void) {
    softmax_batch *batch = malloc(sizeof *batch);
    if (batch) memset(&batch->factors, 0, sizeof batch->factors); /* also beyond the last row */
    return batch;
}

/* e^(c x) / S of n <= ROWS rows, with S the sum whose reciprocal the code of each names. */
static void divide_rows(const reciprocal *table, const int32_t *codes, const double *x, size_t n, scale c, softmax_batch *batch,
                        double *out) {
    products *p = &batch->products;
    factors *f = &batch->factors;
    int any_far = 0;
    weigh_rows(x, ONES, n, c, p);
    for (size_t j = 0; j < n; j++) {
        const reciprocal *r = table + codes[j];
        f->high[j] = r->high, f->low[j] = r->low, f->exponent[j] = r->exponent;
        any_far |= r->is_far;
    }
    loops->multiply(p, f, n, out);
    if (!any_far && !p->exceptional) return;
    for (size_t j = 0; j < n; j++) {
        const reciprocal *r = table + codes[j];
        double v = x[j];
        if (r->high != r->high || v != v)
            out[j] = NAN;
        else if (r->is_far && v == r->max)
            out[j] = ldexp(r->high, (int)r->exponent);
        else if (r->is_far || !is_near(v, c))
            out[j] = r->is_far && v < r->max ? 0.0 : v > 0.0 || r->is_far ? copysign(INFINITY, r->high) : 0.0;
    }
}

/* e^(c x) / S, with S the sum whose reciprocal the code of each row names. */
static int softmax_by(const reciprocal *table, size_t groups, const int32_t *codes, const double *x, size_t n, scale c,
                      double *out) {
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    softmax_batch *batch = new_softmax_batch();
    if (!batch) return NO_MEMORY;
    for (size_t i = 0; i < n; i += ROWS) divide_rows(table, codes + i, x + i, n - i < ROWS ? n - i : ROWS, c, batch, out + i);
    free(batch);
    return DONE;
}

/* e^x / S, with S the sum of each row of x: as many rows together as are no more than ROWS values, or one. */
static int row_softmax(const double *x, size_t rows, size_t columns, double *out) {
    reciprocal table[ROWS];
    int32_t codes[ROWS];
    if (columns == 0) return DONE;
    size_t together = columns < ROWS ? ROWS / columns : 1;
    softmax_batch *batch = new_softmax_batch();
    if (!batch) return NO_MEMORY;
    for (size_t j = 0; j < ROWS; j++) codes[j] = columns < ROWS ? (int32_t)(j / columns) : 0;
    for (size_t i = 0; i < rows; i += together) {
        size_t some = rows - i < together ? rows - i : together;
        for (size_t j = 0; j < some; j++) {
            state s = EMPTY;
            add_all(&s, x + (i + j) * columns, columns);
            table[j] = reciprocal_of(&s, NATURAL);
        }
        for (size_t j = i * columns, end = j + some * columns; j < end; j += ROWS)
            divide_rows(table, codes, x + j, end - j < ROWS ? end - j : ROWS, NATURAL, batch, out + j);
    }
    free(batch);
    return DONE;
}
