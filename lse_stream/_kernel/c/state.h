/* One state: its record, adding values, moving to the grid of a larger maximum, merging, and the terms of maxima. */

typedef struct {
    int64_t count;
    double max;
    int64_t base;
    wide limb[3];
} state;

/* record.py describes the fields. */
typedef struct __attribute__((packed)) {
    uint8_t version, aggregation;
    uint16_t scale;
    uint32_t reserved;
    int64_t count;
    double max;
    int64_t base;
    wide limb[3];
} record;

#define THE_NAN 0x7ff8000000000000ULL /* of the many, the one that records contain */

static const state EMPTY = {0, -INFINITY, NO_BASE, {0, 0, 0}};

static state load(const record *r) {
    state s = {r->count, r->max, r->base, {r->limb[0], r->limb[1], r->limb[2]}};
    return s;
}

static void store(record *r, const state *s) {
    record out = {VERSION, AGGREGATION, SCALE, 0, s->count, s->max, s->base, {s->limb[0], s->limb[1], s->limb[2]}};
    memcpy(r, &out, sizeof out);
}

/* Whether a sum with this maximum is on a grid; else only ties with the maximum count. */
INLINE int is_near(double max) { return fabs(max) < TOO_FAR; }

static void set_nan(state *s) {
    int64_t count = s->count;
    *s = EMPTY;
    s->count = count;
    s->max = double_of(THE_NAN);
}

/* The base of a sum whose largest term has exponent k: 50 floor((k + 1) / 50). */
INLINE int64_t base_of_exponent(int64_t k) {
    int64_t q = (k + 1) / LIMB_BITS;
    return (q - ((k + 1) % LIMB_BITS < 0)) * LIMB_BITS;
}

/* The exponent of a term. */
INLINE int64_t exponent_of(uint64_t steps, uint64_t turns) { return ((int64_t)steps >> 7) + (int64_t)(turns << 22); }

static int64_t base_of(double x) {
    double high, low;
    uint64_t steps, turns;
    term_portable(x, 0.0, 1, &high, &low, &steps, &turns);
    return base_of_exponent(exponent_of(steps, turns));
}

/* Puts the limbs on the grid of a larger base. */
static void move_to(wide limb[3], int64_t from, int64_t to) {
    int64_t down = from == NO_BASE || to - from >= 3 * LIMB_BITS ? 3 : (to - from) / LIMB_BITS;
    for (int j = 2; j >= 0; j--) limb[j] = j >= down ? limb[j - down] : 0;
}

/* Takes a new maximum, larger than the old one. */
static void raise_max(state *s, double max) {
    max = max + 0.0; /* -0.0 counts as 0.0 */
    int64_t base = is_near(max) ? base_of(max) : NO_BASE;
    move_to(s->limb, base == NO_BASE ? NO_BASE : s->base, base);
    s->max = max;
    s->base = base;
}

/* The limbs of high + low, which are in units of the base. */
INLINE void limbs_of_pair(double high, double low, int64_t limb[3]) {
    uint64_t parts[3];
    limbs_portable(high, low, parts);
    for (int j = 0; j < 3; j++) limb[j] = (int64_t)parts[j];
}

static void limbs_of(double x, int64_t base, int64_t limb[3]) {
    double high, low;
    uint64_t steps, turns;
    term_portable(x, 0.0, 1, &high, &low, &steps, &turns);
    double power = power_portable(steps, turns, bias_of(base));
    limbs_of_pair(high * power, low * power, limb);
}

static void add(state *s, double x) {
    s->count++;
    if (!(x <= s->max)) {
        if (s->max != s->max) return;
        if (x != x) {
            set_nan(s);
            return;
        }
        raise_max(s, x);
    }
    if (!is_near(s->max)) {
        s->limb[0] += x == s->max && isfinite(x);
    } else if (x >= s->max - SPAN) {
        int64_t limb[3];
        limbs_of(x, s->base, limb);
        for (int j = 0; j < 3; j++) s->limb[j] += limb[j];
    }
}

static void add_block(state *s, const double *x, size_t n) {
    s->count += n;
    double max = loops->block_max(x, n);
    if (s->max != s->max) return;
    if (max != max) {
        set_nan(s);
        return;
    }
    if (max > s->max) raise_max(s, max);
    if (!is_near(s->max)) {
        if (isfinite(s->max))
            for (size_t i = 0; i < n; i++) s->limb[0] += x[i] == s->max;
        return;
    }
    double floor = s->max - SPAN;
    if (max <= floor) return;
    int64_t sums[3];
    (fabs(s->max) < FAR - SPAN ? loops->sum_near : loops->sum_far)(x, n, floor, s->base, sums);
    for (int j = 0; j < 3; j++) s->limb[j] += sums[j];
}

static void add_all(state *s, const double *x, size_t n) {
    for (size_t i = 0; i < n; i += BLOCK) add_block(s, x + i, n - i < BLOCK ? n - i : BLOCK);
}

static void add_all_float(state *s, const float *x, size_t n) {
    double block[BLOCK];
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t size = n - i < BLOCK ? n - i : BLOCK;
        __builtin_prefetch(x + i + BLOCK);
        loops->widen(x + i, size, block);
        add_block(s, block, size);
    }
}

/* Whether a base is of terms, and neither of weights alone nor NO_BASE. */
INLINE int is_near_base(int64_t base) { return base != NO_BASE && base < FAR_BASE / 2; }

/* Adds all that other contains to s; on COUNT_OVERFLOW s is unchanged. */
static int merge(state *s, state other) {
    int64_t count;
    if (__builtin_add_overflow(s->count, other.count, &count)) return COUNT_OVERFLOW;
    if (other.max != other.max || s->max != s->max) {
        set_nan(s);
    } else {
        if (other.max > s->max) {
            state smaller = *s;
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
            } else if (s->limb[0] != other.limb[0]) { /* the infinities of a sum with signs: 1 or -1 */
                set_nan(s);
            }
        }
    }
    s->count = count;
    return DONE;
}

/* e^(c x) for |c x| < 2^60: see term in vector_loops.h. */
INLINE void scaled_term(double x, scale c, double *high, double *low, uint64_t *steps, uint64_t *turns) {
    double y, below;
    two_prod_portable(x, c.high, &y, &below);
    term_portable(y, below + x * c.low, 1, high, low, steps, turns);
}

/* The term of one x, |c x| < 2^60, on the grid of its own base. */
static void own_term(double x, scale c, int64_t *base, double *term, double *term_low, int64_t limb[3]) {
    double high, low;
    uint64_t steps, turns;
    scaled_term(x, c, &high, &low, &steps, &turns);
    *base = base_of_exponent(exponent_of(steps, turns));
    double power = power_portable(steps, turns, bias_of(*base));
    *term = high * power, *term_low = low * power;
    limbs_of_pair(*term, *term_low, limb);
}

/* Whether c x is near enough for a grid. NaN is not. */
INLINE int is_near_in(double x, scale c) { return fabs(x * c.high) < TOO_FAR; }

/* Whether the sum that limbs represent is below 0. */
static int is_negative(const wide limb[3]) { return limb[0] + ((limb[1] + (limb[2] >> LIMB_BITS)) >> LIMB_BITS) < 0; }
