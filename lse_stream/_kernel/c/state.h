/* One sum of e^(c x): its record, adding terms, and merging.

   The terms of the maximum are counted. All smaller ones, the rest, are summed on the grid of the second, the largest value
   below the maximum. A term is added to the rest when a larger value arrives: until then it needs no exponential. */

typedef struct {
    int64_t count;
    double max;
    int64_t ties;
    double second;
    int64_t base; /* of the grid of second; NO_BASE where there is none */
    wide limb[3];
} state;

/* As arrays contain it: sums.py describes the fields. The base follows from the second. */
typedef struct __attribute__((packed)) {
    int64_t count;
    double max;
    int64_t ties;
    double second;
    wide limb[3];
} record;

#define THE_NAN 0x7ff8000000000000ULL /* of the many, the one that records contain */

static const state EMPTY = {0, -INFINITY, 0, -INFINITY, NO_BASE, {0, 0, 0}};

INLINE int is_natural(scale c) { return c.high == 1.0 && c.low == 0.0; }

/* Whether c x is near enough for a grid; of larger maxima only ties count. NaN is not. */
INLINE int is_near(double x, scale c) { return fabs(x * c.high) < TOO_FAR; }

/* e^(c x) for |c x| < 2^60: see term in vector_loops.h. */
INLINE void scaled_term(double x, scale c, double *high, double *low, uint64_t *steps, uint64_t *turns) {
    double y = x, below = 0.0;
    if (!is_natural(c)) {
        two_prod_portable(x, c.high, &y, &below);
        below = below + x * c.low;
    }
    term_portable(y, below, 1, high, low, steps, turns);
}

/* The base of a sum whose largest term has exponent k: 50 floor((k + 1) / 50). */
INLINE int64_t base_of_exponent(int64_t k) {
    int64_t q = (k + 1) / LIMB_BITS;
    return (q - ((k + 1) % LIMB_BITS < 0)) * LIMB_BITS;
}

/* The exponent of a term. */
INLINE int64_t exponent_of(uint64_t steps, uint64_t turns) { return ((int64_t)steps >> 7) + (int64_t)(turns << 22); }

/* The exponent of e^x for |x| < FAR, as term has it. */
INLINE int64_t near_exponent(double x) { return (int64_t)(bits_of(x * STEPS_PER_UNIT + ROUND) - ROUND_BITS) >> 7; }

/* The base of the grid of a second; NO_BASE of -inf. */
static int64_t base_of(double x, scale c) {
    if (x == -INFINITY) return NO_BASE;
    if (is_natural(c) && fabs(x) < FAR) return base_of_exponent(near_exponent(x));
    double high, low;
    uint64_t steps, turns;
    scaled_term(x, c, &high, &low, &steps, &turns);
    return base_of_exponent(exponent_of(steps, turns));
}

static state load(const record *r, scale c) {
    state s = {r->count, r->max, r->ties, r->second, base_of(r->second, c), {r->limb[0], r->limb[1], r->limb[2]}};
    return s;
}

static void store(record *r, const state *s) {
    record out = {s->count, s->max, s->ties, s->second, {s->limb[0], s->limb[1], s->limb[2]}};
    memcpy(r, &out, sizeof out);
}

static void set_nan(state *s) {
    int64_t count = s->count;
    *s = EMPTY;
    s->count = count;
    s->max = double_of(THE_NAN);
}

/* Puts the limbs on the grid of a larger base. */
static void move_to(wide limb[3], int64_t from, int64_t to) {
    int64_t down = from == NO_BASE || to - from >= 3 * LIMB_BITS ? 3 : (to - from) / LIMB_BITS;
    for (int j = 2; j >= 0; j--) limb[j] = j >= down ? limb[j - down] : 0;
}

/* The limbs of high + low, which are in units of the base. */
INLINE void limbs_of_pair(double high, double low, int64_t limb[3]) {
    uint64_t parts[3];
    limbs_portable(high, low, parts);
    for (int j = 0; j < 3; j++) limb[j] = (int64_t)parts[j];
}

/* The limbs of (high + low) 2^exponent on the grid of a base; 0 far below it. */
INLINE void limbs_on(double high, double low, int64_t exponent, int64_t base, int64_t limb[3]) {
    int64_t biased = exponent - base + 1023;
    if (biased <= 0) {
        limb[0] = limb[1] = limb[2] = 0;
        return;
    }
    double power = double_of((uint64_t)biased << 52);
    limbs_of_pair(high * power, low * power, limb);
}

/* The term of one near x as a pair in [1/2, 4), and its exponent. */
INLINE void own_term(double x, scale c, double *term, double *term_low, int64_t *exponent) {
    uint64_t steps, turns;
    if (is_natural(c) && fabs(x) < FAR) {
        term_portable(x, 0.0, 0, term, term_low, &steps, &turns);
        *exponent = (int64_t)steps >> 7;
    } else {
        scaled_term(x, c, term, term_low, &steps, &turns);
        *exponent = exponent_of(steps, turns);
    }
}

/* Takes a new second, larger than the old one and below the maximum: its terms are yet to be added. */
static void raise_second(state *s, double x, int64_t base) {
    move_to(s->limb, s->base, base);
    s->second = x + 0.0; /* -0.0 counts as 0.0 */
    s->base = base;
}

/* Adds terms of an x that is below the maximum; both are near. */
static void add_to_rest(state *s, double x, int64_t times, scale c) {
    double high, low;
    int64_t exponent, limb[3];
    own_term(x, c, &high, &low, &exponent);
    if (x > s->second) raise_second(s, x, base_of_exponent(exponent));
    limbs_on(high, low, exponent, s->base, limb);
    for (int j = 0; j < 3; j++) s->limb[j] += (wide)limb[j] * times;
}

/* Takes x as one of a sum, times its term: all but the count. */
static void take(state *s, double x, int64_t times, scale c) {
    if (s->max != s->max) return;
    if (x == s->max) {
        s->ties += times;
        return;
    }
    if (x != x) {
        set_nan(s);
        return;
    }
    if (x > s->max) {
        double smaller = s->max;
        int64_t of_smaller = s->ties;
        s->max = x + 0.0, s->ties = times;
        if (!is_near(x, c)) {
            s->second = -INFINITY, s->base = NO_BASE;
            s->limb[0] = s->limb[1] = s->limb[2] = 0;
        }
        x = smaller, times = of_smaller;
    }
    if (is_near(s->max, c) && is_near(x, c)) add_to_rest(s, x, times, c);
}

static void add(state *s, double x, scale c) {
    s->count++;
    take(s, x, 1, c);
}

/* Takes the maximum and the second of values that are yet to be added; on NOT_NEAR there is no rest to add to. */
enum { NEAR, NOT_NEAR };

static int raise(state *s, const double *x, size_t n, double max, scale c) {
    if (s->max == s->max && !(max <= s->max)) take(s, max, 0, c);
    if (!is_near(s->max, c)) {
        if (s->max == s->max)
            for (size_t i = 0; i < n; i++) s->ties += x[i] == s->max;
        return NOT_NEAR;
    }
    double second = loops->max_below(x, n, s->max);
    if (second > s->second && is_near(second, c)) raise_second(s, second, base_of(second, c));
    return NEAR;
}

/* Adds a block; tied is whether ties are to be expected, as the block before had some, and is written. */
static void add_block(state *s, const double *x, size_t n, int *tied) {
    s->count += n;
    for (int raised = 0;; raised = 1) {
        if (is_near(s->max, NATURAL)) {
            /* Without a second nothing is added: what is far below it counts as 0, on a grid where that vanishes. */
            int has_rest = s->base != NO_BASE, is_far = has_rest && fabs(s->second) >= FAR - SPAN;
            int64_t sums[3], ties;
            limits at = {s->max, s->second > -TOO_FAR ? s->second : -TOO_FAR, has_rest ? s->second - SPAN : 0.0,
                         has_rest ? s->base : VANISHING_BASE};
            if ((is_far ? loops->sum_far : loops->sum_near)(x, n, &at, *tied, sums, &ties)) {
                *tied = ties != 0;
                s->ties += ties;
                for (int j = 0; j < 3; j++) s->limb[j] += sums[j];
                return;
            }
        }
        if (raised || raise(s, x, n, loops->block_max(x, n), NATURAL) == NOT_NEAR) return;
        *tied = 1;
    }
}

static void add_all(state *s, const double *x, size_t n) {
    int tied = 0;
    for (size_t i = 0; i < n; i += BLOCK) add_block(s, x + i, n - i < BLOCK ? n - i : BLOCK, &tied);
}

static void add_all_float(state *s, const float *x, size_t n) {
    double block[BLOCK];
    int tied = 0;
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t size = n - i < BLOCK ? n - i : BLOCK;
        __builtin_prefetch(x + i + BLOCK);
        loops->widen(x + i, size, block);
        add_block(s, block, size, &tied);
    }
}

/* Adds all that other contains to s; on COUNT_OVERFLOW s is unchanged. */
static int merge(state *s, state other, scale c) {
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
        if (other.max == s->max)
            s->ties += other.ties;
        else if (is_near(s->max, c) && is_near(other.max, c))
            add_to_rest(s, other.max, other.ties, c);
        if (is_near(s->max, c) && other.base != NO_BASE) {
            if (other.second > s->second) {
                move_to(s->limb, s->base, other.base);
                s->second = other.second, s->base = other.base;
            } else {
                move_to(other.limb, other.base, s->base);
            }
            for (int j = 0; j < 3; j++) s->limb[j] += other.limb[j];
        }
    }
    s->count = count;
    return DONE;
}

/* The sum that limbs represent is below 0. */
static int is_negative(const wide limb[3]) { return limb[0] + ((limb[1] + (limb[2] >> LIMB_BITS)) >> LIMB_BITS) < 0; }

/* The sum on the grid of its maximum, which is enough where no more than its leading bits are wanted: the terms of the max,
   with their limbs, and the rest. Where the max is not near, its term is 1 on base 0. */
static void total_of(const state *s, scale c, int64_t *base, int64_t own[3], wide total[3]) {
    own[0] = 1, own[1] = own[2] = 0, *base = 0;
    for (int j = 0; j < 3; j++) total[j] = s->limb[j];
    if (is_near(s->max, c)) {
        double high, low;
        int64_t exponent;
        own_term(s->max, c, &high, &low, &exponent);
        *base = base_of_exponent(exponent);
        limbs_on(high, low, exponent, *base, own);
        move_to(total, s->base, *base);
    }
    for (int j = 0; j < 3; j++) total[j] += (wide)own[j] * s->ties;
}
