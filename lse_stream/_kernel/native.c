/* The kernel in C: exact sums of e^x. numpy_kernel.py has the same operations and gives the same bits.

   A term e^x = 2^k (A + B), a pair with a relative error of about 2^-60, is cut into three limbs of 50 bits on an absolute
   grid of quanta 2^base, 2^(base-50), 2^(base-100), and the limbs are summed as integers, so the order cannot matter. The
   base is a function of the maximum: 50 floor((k_max + 1) / 50). When the maximum grows, limbs move down by whole
   positions and the lowest fall off. A term never reaches half the next larger quantum (k - base is in [-1, 48]), so what
   remains is what would have been added on the new grid from the start. Carries between limbs are never propagated in a
   state: that would depend on the order. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __linux__
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "records are little-endian: the NumPy kernel serves other machines"
#endif

#include "constants.h"

typedef __int128 wide;
#define INLINE static inline __attribute__((always_inline))

#define LIMB_WIDTH 50
#define ROUND 0x1.8p52 /* adding and subtracting it rounds to an integer */
#define ROUND_BITS 0x4338000000000000ULL
#define LIMB_ROUND_0 0x1.8p52
#define LIMB_ROUND_1 0x1.8p2
#define LIMB_ROUND_2 0x1.8p-48
#define LIMB_BITS_0 0x4338000000000000ULL
#define LIMB_BITS_1 0x4018000000000000ULL
#define LIMB_BITS_2 0x3CF8000000000000ULL
#define FAR 0x1p23   /* from here on the argument needs a first reduction */
#define TOO_FAR 0x1p60 /* from here on only ties with the maximum count */
#define SPAN 192.0   /* max - SPAN contributes nothing. Not 128: near -2^59, max - 128 rounds to max - 64 */
#define FLUSH 4096   /* limbs of a term are below 2^50: so many fit an int64 */
#define BLOCK 2048   /* values of one pass over the cache, at most FLUSH */
#define BATCH 64     /* states finished together, a multiple of 8 */
#define FEW 64       /* most rows of a matrix finished together, a multiple of 8 */
#define LONG 24      /* columns from which on the values of a row share a vector */
#define NO_BASE INT64_MIN
#define FAR_BASE (50LL << 56) /* added to the base of a sum of weights where |max| >= 2^60 */
#define NOTHING (-(1LL << 61))      /* exponent of a product that contributes nothing */
#define ROWS 512                    /* rows of one pass by group: their limbs stay in the first-level cache */

INLINE uint64_t bits_of(double d) {
    uint64_t b;
    memcpy(&b, &d, 8);
    return b;
}

INLINE double double_of(uint64_t b) {
    double d;
    memcpy(&d, &b, 8);
    return d;
}

INLINE uint64_t bias_of(int64_t base) { return (uint64_t)(1023 - base) * 128; }

/* --- loops over values, one instance per instruction set -------------------------------------------------------- */

/* What the values are multiplied by: ln b for a base b. The natural scale is 1. */
typedef struct {
    double high, low;
} scale;

static const scale NATURAL = {1.0, 0.0};

/* Rows as w e^(c x) = (high + low) 2^exponent. Where nothing is added (w = 0, x = -inf), or x is not
   for the loop, high and low are 0 and the exponent is NOTHING. */
typedef struct {
    double high[ROWS], low[ROWS];
    int64_t exponent[ROWS];
    double max;  /* largest x that counts */
    int64_t top; /* exponent of the largest rounded product */
    int odd;     /* whether a row was not for the loop: x NaN, +inf, or too far from 0 */
} products;

typedef struct {
    double high[ROWS], low[ROWS];
    int64_t exponent[ROWS];
} factors;

typedef struct {
    const char *name;
    double (*block_max)(const double *x, size_t n);
    void (*sum_near)(const double *x, size_t n, double floor, int64_t base, int64_t out[3]);
    void (*sum_far)(const double *x, size_t n, double floor, int64_t base, int64_t out[3]);
    void (*cut_each)(const double *x, const uint64_t *bias, size_t n, int64_t *h0, int64_t *h1, int64_t *h2);
    void (*own_terms)(const double *x, const uint64_t *bias, size_t n, double *term, double *term_low, int64_t own[3][BATCH]);
    void (*finish)(const double *max, const double *term, const double *term_low, double digits[5][BATCH], size_t n, double *out);
    void (*widen)(const float *x, size_t n, double *out);
    void (*weigh_near)(const double *x, const double *w, size_t n, scale c, products *p);
    void (*weigh_any)(const double *x, const double *w, size_t n, scale c, products *p);
    void (*sum_products)(const products *p, size_t n, int64_t base, int64_t out[3]);
    void (*multiply)(const products *p, const factors *f, size_t n, double *out);
    void (*rows)(const double *x, size_t n, size_t columns, double *out);
} instruction_set;

#define STRING_(s) #s
#define STRING(s) STRING_(s)

#define NAME(f) f##_portable
#define SET portable
#define TARGET
#define LANES 1
#include "vector_loops.h"
#undef NAME

#if defined(__x86_64__)
#define NAME(f) f##_sse2
#define SET sse2
#define TARGET
#define LANES 2
#define MAX(x, y) ((VD)_mm_max_pd(x, y))
#define FNMA(a, b, c) ((c) - (a) * (b))
/* One load a row of the table, and a transposition: on AMD a gather costs more, and so little less on Intel. */
#define LOOKUP(table, index, a, b)                            \
    do {                                                      \
        __m128d row0 = _mm_load_pd((table)[(index)[0]]);      \
        __m128d row1 = _mm_load_pd((table)[(index)[1]]);      \
        *(a) = (VD)_mm_unpacklo_pd(row0, row1);               \
        *(b) = (VD)_mm_unpackhi_pd(row0, row1);               \
    } while (0)
#include "vector_loops.h"
#undef NAME

#define NAME(f) f##_avx2
#define SET avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 4
#define MAX(x, y) ((VD)_mm256_max_pd(x, y))
#define FNMA(a, b, c) ((VD)_mm256_fnmadd_pd(a, SPLAT(b), c))
/* As two_prod, where nothing underflows: the error of a product is exact either way. */
#define PRODUCT(a, b, p, e) (*(p) = (a) * (b), *(e) = (VD)_mm256_fmsub_pd(a, b, *(p)))
#define LOOKUP(table, index, a, b)                                                                               \
    do {                                                                                                          \
        __m256d even = _mm256_loadu2_m128d((table)[(index)[2]], (table)[(index)[0]]);                             \
        __m256d odd = _mm256_loadu2_m128d((table)[(index)[3]], (table)[(index)[1]]);                              \
        *(a) = (VD)_mm256_unpacklo_pd(even, odd);                                                                 \
        *(b) = (VD)_mm256_unpackhi_pd(even, odd);                                                                 \
    } while (0)
#include "vector_loops.h"
#undef NAME

#define NAME(f) f##_avx512
#define SET avx512
#define TARGET __attribute__((target("avx512f,avx512dq,avx512vl")))
#define LANES 8
#define MAX(x, y) ((VD)_mm512_max_pd(x, y))
#define FNMA(a, b, c) ((VD)_mm512_fnmadd_pd(a, SPLAT(b), c))
#define PRODUCT(a, b, p, e) (*(p) = (a) * (b), *(e) = (VD)_mm512_fmsub_pd(a, b, *(p)))
#define LOOKUP(table, index, a, b)                                                                  \
    (*(a) = (VD)_mm512_i64gather_pd((__m512i)((index) << 1), &(table)[0][0], 8),                      \
     *(b) = (VD)_mm512_i64gather_pd((__m512i)((index) << 1), &(table)[0][1], 8))
#include "vector_loops.h"
#undef NAME
#endif

/* The sets this machine can run, fastest first, and the one in use. */
static const instruction_set *supported[4];
static int n_supported;
static const instruction_set *loops;

static void find_supported(void) {
    n_supported = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        supported[n_supported++] = &set_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) supported[n_supported++] = &set_avx2;
    supported[n_supported++] = &set_sse2;
#endif
    supported[n_supported++] = &set_portable;
    loops = supported[0];
}

/* --- one state -------------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t count;
    double max;
    int64_t base;
    wide limb[3];
} state;

/* record.py describes the fields. */
typedef struct __attribute__((packed)) {
    uint8_t version, kind;
    uint16_t scale;
    uint32_t reserved;
    int64_t count;
    double max;
    int64_t base;
    wide limb[3];
} record;

static const state EMPTY = {0, -INFINITY, NO_BASE, {0, 0, 0}};

static state load(const record *r) {
    state s = {r->count, r->max, r->base, {r->limb[0], r->limb[1], r->limb[2]}};
    return s;
}

static void store(record *r, const state *s) {
    record out = {1, 0, 0, 0, s->count, s->max, s->base, {s->limb[0], s->limb[1], s->limb[2]}};
    memcpy(r, &out, sizeof out);
}

INLINE int is_near(double max) { return fabs(max) < TOO_FAR; }

static void set_nan(state *s) {
    int64_t count = s->count;
    *s = EMPTY;
    s->count = count;
    s->max = double_of(0x7ff8000000000000ULL);
}

INLINE int64_t base_of_exponent(int64_t k) {
    int64_t q = (k + 1) / LIMB_WIDTH;
    return (q - ((k + 1) % LIMB_WIDTH < 0)) * LIMB_WIDTH;
}

static int64_t base_of(double x) {
    double high, low;
    uint64_t steps, turns;
    term_portable(x, 0.0, 1, &high, &low, &steps, &turns);
    return base_of_exponent(((int64_t)steps >> 7) + (int64_t)(turns << 22));
}

/* Puts the limbs on the grid of a larger base. */
static void move_to(wide limb[3], int64_t from, int64_t to) {
    int64_t down = from == NO_BASE || to - from >= 3 * LIMB_WIDTH ? 3 : (to - from) / LIMB_WIDTH;
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

static void limbs_of(double x, int64_t base, int64_t limb[3]) {
    double high, low;
    uint64_t steps, turns, v0, v1, v2;
    term_portable(x, 0.0, 1, &high, &low, &steps, &turns);
    double scale = power_portable(steps, turns, bias_of(base));
    cut_portable(high * scale, low * scale, &v0, &v1, &v2);
    limb[0] = (int64_t)(v0 - LIMB_BITS_0);
    limb[1] = (int64_t)(v1 - LIMB_BITS_1);
    limb[2] = (int64_t)(v2 - LIMB_BITS_2);
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

INLINE int is_near_base(int64_t base) { return base != NO_BASE && base < FAR_BASE / 2; }

/* Returns 0, or -1 where the count would overflow; s is as before then. */
static int merge(state *s, state other) {
    int64_t count;
    if (__builtin_add_overflow(s->count, other.count, &count)) return -1;
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
    return 0;
}

/* --- values of many states -------------------------------------------------------------------------------------- */

#define LOW_BITS(w) ((double)(int64_t)((w) & (((wide)1 << LIMB_WIDTH) - 1)))

#define LANES_FOR(n) (((n) + 7) / 8 * 8)

/* The terms of the maxima of n <= BATCH states, and each state's limbs less those. The last lanes are filled up. */
static void own_terms(const state *s, size_t n, double max[BATCH], double term[BATCH], double term_low[BATCH], wide rest[3][BATCH]) {
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
        for (int j = 0; j < 3; j++) rest[j][i] = s[i].limb[j] - own[j][i];
    }
}

static void values_of(const record *records, size_t n, double *out) {
    state s[BATCH];
    double max[BATCH], term[BATCH], term_low[BATCH], digits[5][BATCH], value[BATCH];
    wide rest[3][BATCH];
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
            wide part = rest[2][i];
            digits[0][i] = LOW_BITS(part) * 0x1p-100;
            part = rest[1][i] + (part >> LIMB_WIDTH);
            digits[1][i] = LOW_BITS(part) * 0x1p-50;
            part = rest[0][i] + (part >> LIMB_WIDTH);
            digits[2][i] = LOW_BITS(part);
            part >>= LIMB_WIDTH;
            digits[3][i] = LOW_BITS(part) * 0x1p50;
            digits[4][i] = (double)(int64_t)(part >> LIMB_WIDTH) * 0x1p100;
        }
        for (size_t i = size; i < LANES_FOR(size); i++)
            for (int d = 0; d < 5; d++) digits[d][i] = 0.0;
        loops->finish(max, term, term_low, digits, LANES_FOR(size), value);
        for (size_t i = 0; i < size; i++) out[from + i] = isfinite(max[i]) ? value[i] : max[i];
    }
}

/* The log-sum-exp of each of n rows. */
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

/* --- weights and scales ----------------------------------------------------------------------------------------- */

/* The term of one x, |c x| < 2^60, on the grid of its own base. */
static void own_term(double x, scale c, int64_t *base, double *term, double *term_low, int64_t limb[3]) {
    double y, below, high, low;
    uint64_t steps, turns, v0, v1, v2;
    two_prod_portable(x, c.high, &y, &below);
    term_portable(y, below + x * c.low, 1, &high, &low, &steps, &turns);
    *base = base_of_exponent(((int64_t)steps >> 7) + (int64_t)(turns << 22));
    double power = power_portable(steps, turns, bias_of(*base));
    *term = high * power, *term_low = low * power;
    cut_portable(*term, *term_low, &v0, &v1, &v2);
    limb[0] = (int64_t)(v0 - LIMB_BITS_0);
    limb[1] = (int64_t)(v1 - LIMB_BITS_1);
    limb[2] = (int64_t)(v2 - LIMB_BITS_2);
}

INLINE int is_near_in(double x, scale c) { return fabs(x * c.high) < TOO_FAR; }

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
    uint64_t v0, v1, v2;
    double power = double_of((uint64_t)biased << 52);
    cut_portable(high * power, low * power, &v0, &v1, &v2);
    s->limb[0] += (int64_t)(v0 - LIMB_BITS_0);
    s->limb[1] += (int64_t)(v1 - LIMB_BITS_1);
    s->limb[2] += (int64_t)(v2 - LIMB_BITS_2);
}

/* Adds w e^(c x) where x is NaN, +inf or |c x| >= 2^60: of those that far x alone decides, and weights are summed. */
static void add_odd(state *s, double x, double w, scale c, int is_signed) {
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
        uint64_t v0, v1, v2;
        int exponent;
        double fraction = frexp(w, &exponent);
        int64_t base = base_of_exponent(exponent - 1);
        cut_portable(ldexp(fraction, exponent - (int)base), 0.0, &v0, &v1, &v2);
        part.base = FAR_BASE + base;
        part.limb[0] = (int64_t)(v0 - LIMB_BITS_0);
        part.limb[1] = (int64_t)(v1 - LIMB_BITS_1);
        part.limb[2] = (int64_t)(v2 - LIMB_BITS_2);
    }
    merge(s, part);
}

INLINE int is_natural(scale c) { return c.high == 1.0 && c.low == 0.0; }

static void weigh_rows(const double *x, const double *w, size_t n, scale c, products *p) {
    if (is_natural(c)) loops->weigh_near(x, w, n, c, p);
    if (!is_natural(c) || p->odd) loops->weigh_any(x, w, n, c, p);
}

/* Adds n <= ROWS rows but for the odd ones. */
static void add_weighed(state *s, const double *x, const double *w, size_t n, scale c, products *p) {
    state part = {(int64_t)n, -INFINITY, NO_BASE, {0, 0, 0}};
    weigh_rows(x, w, n, c, p);
    if (p->top != NOTHING) {
        int64_t sums[3];
        part.max = p->max + 0.0;
        part.base = base_of_exponent(p->top);
        loops->sum_products(p, (n + 7) / 8 * 8, part.base, sums);
        for (int j = 0; j < 3; j++) part.limb[j] = sums[j];
    }
    merge(s, part);
}

/* Index of the fault in record.py's FAULTS, or -1. */
static int fault_of(const record *r, scale c, int is_signed) {
    if (r->version != 1) return 0;
    if (r->kind != 0) return 1;
    if (r->scale != 0) return 2;
    if (r->reserved != 0) return 3;
    if (r->count < 0) return 4;
    state s = load(r);
    if (s.max != s.max && bits_of(s.max) != 0x7ff8000000000000ULL) return 5;
    if (bits_of(s.max) == 1ULL << 63 || (s.count == 0 && s.max != -INFINITY)) return 5;
    int fits = 1;
    for (int j = 0; j < 3; j++) fits &= s.limb[j] >> LIMB_WIDTH >= -s.count && s.limb[j] >> LIMB_WIDTH <= s.count;
    if (is_signed && isfinite(s.max)) {
        /* The base is that of a weight, or of a weight times a term: with |weight| from 2^-1074 to 2^1024. */
        int64_t own[3], least = FAR_BASE, most = FAR_BASE + 1050;
        double term, term_low;
        if (is_near_in(s.max, c)) {
            own_term(s.max, c, &least, &term, &term_low, own);
            most = FAR_BASE / 2 - 1;
        }
        if ((s.base - least) % LIMB_WIDTH != 0 || s.base < least - 1100 || s.base > most) return 6;
        return fits ? -1 : 7;
    }
    if (is_near_in(s.max, c)) {
        int64_t base, own[3];
        double term, term_low;
        own_term(s.max, c, &base, &term, &term_low, own);
        if (s.base != base) return 6;
        if (!fits) return 7;
        for (int j = 0; j < 3; j++) s.limb[j] -= own[j];
        if (s.count == 1 && (s.limb[0] || s.limb[1] || s.limb[2])) return 7; /* the max is all there is */
        return s.limb[0] + ((s.limb[1] + (s.limb[2] >> LIMB_WIDTH)) >> LIMB_WIDTH) < 0 ? 7 : -1;
    }
    if (s.base != NO_BASE) return 6;
    int first = isfinite(s.max) ? s.limb[0] > 0 && s.limb[0] <= s.count
                : is_signed && s.max == INFINITY ? s.limb[0] == 1 || s.limb[0] == -1
                                                 : s.limb[0] == 0;
    return first && s.limb[1] == 0 && s.limb[2] == 0 ? -1 : 7;
}

/* limb[0] + limb[1] 2^-50 + limb[2] 2^-100 >= 0, as a double-double. */
static void pair_of(const wide limb[3], double *high, double *low) {
    double digits[5], error;
    wide part = limb[2];
    digits[0] = LOW_BITS(part) * 0x1p-100;
    part = limb[1] + (part >> LIMB_WIDTH);
    digits[1] = LOW_BITS(part) * 0x1p-50;
    part = limb[0] + (part >> LIMB_WIDTH);
    digits[2] = LOW_BITS(part);
    part >>= LIMB_WIDTH;
    digits[3] = LOW_BITS(part) * 0x1p50;
    digits[4] = (double)(int64_t)(part >> LIMB_WIDTH) * 0x1p100;
    *high = digits[0], *low = 0.0;
    for (int d = 1; d < 5; d++) {
        two_sum_portable(digits[d], *high, high, &error);
        quick_two_sum_portable(*high, error + *low, high, low);
    }
}

static int is_negative(const wide limb[3]) { return limb[0] + ((limb[1] + (limb[2] >> LIMB_WIDTH)) >> LIMB_WIDTH) < 0; }

static void divide(double ah, double al, double bh, double bl, double *qh, double *ql) {
    double q = ah / bh, ph, pl;
    two_prod_portable(q, bh, &ph, &pl);
    quick_two_sum_portable(q, ((((ah - ph) - pl) + al) - q * bl) / bh, qh, ql);
}

/* What a state says of its sum S beside its max: with T the term of the max, or 1 where that is too far, q = |S| / (n T). */
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
    int negative = is_negative(s->limb);
    for (int j = 0; j < 3; j++) sum[j] = negative ? -s->limb[j] : s->limb[j];
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
        /* S - n T is exact in integers: ties cancel, and what little is left has its full accuracy. */
        for (int j = 0; j < 3; j++) rest[j] = sum[j] - (wide)n * own[j];
        int below = is_negative(rest);
        for (int j = 0; below && j < 3; j++) rest[j] = -rest[j];
        pair_of(rest, &rest_high, &rest_low);
        divide(rest_high, rest_low, term, term_low, &y, &y_low);
        if (below) y = -y, y_low = -y_low;
    } else {
        int64_t apart = s->base - base;
        int exponent;
        frexp(q.high, &exponent);
        y = ldexp(q.high, 1 - exponent) - 1.0, y_low = ldexp(q.low, 1 - exponent);
        power = (double)(exponent - 1 + apart);
        apart = apart < -3000 ? -3000 : apart > 3000 ? 3000 : apart;
        q.high = ldexp(q.high, (int)apart), q.low = ldexp(q.low, (int)apart);
    }
    double high, low, error;
    quick_two_sum_portable(y, y_low, &y, &y_low);
    log1p_pair_portable(y, y_low, &high, &low);
    two_sum_portable(power * LN2_HIGH, high, &high, &error);
    quick_two_sum_portable(high, low + (error + power * LN2_LOW), &q.log_high, &q.log_low);
    return q;
}

/* --- values and states by group --------------------------------------------------------------------------------- */

/* The state of a group while rows are added: one cache line. */
typedef struct __attribute__((aligned(64))) {
    int64_t low[3];  /* limb = high 2^62 + low */
    double cap;      /* max, or NaN where a row needs the general path */
    double max;
    int64_t count;
    int32_t high[3]; /* enough for 2^43 rows of one group */
    int32_t base;
} line;

#define AHEAD 64  /* rows to prefetch lines for */

static void line_from_state(line *l, const state *s) {
    int near = fabs(s->max) < FAR - SPAN;
    l->cap = near ? s->max : NAN;
    l->max = s->max;
    l->count = s->count;
    l->base = near ? (int32_t)s->base : INT32_MIN;
    for (int j = 0; j < 3; j++) {
        l->high[j] = (int32_t)(s->limb[j] >> 62);
        l->low[j] = (int64_t)(s->limb[j] & (((wide)1 << 62) - 1));
    }
}

static state state_from_line(const line *l) {
    state s = {l->count, l->max, l->base, {0, 0, 0}};
    if (l->cap != l->cap) s.base = is_near(l->max) ? base_of(l->max) : NO_BASE;
    for (int j = 0; j < 3; j++) s.limb[j] = ((wide)l->high[j] << 62) + l->low[j];
    return s;
}

/* Counts rows; every 4096 of them the low parts are emptied into the high ones. */
INLINE void count_rows(line *l, int64_t n) {
    int64_t count = l->count + n;
    if (__builtin_expect((count ^ l->count) >> 12 != 0, 0))
        for (int j = 0; j < 3; j++) {
            int64_t carry = l->low[j] >> 62;
            l->high[j] += (int32_t)carry;
            l->low[j] -= (int64_t)((uint64_t)carry << 62);
        }
    l->count = count;
}

static __attribute__((noinline)) void raise_any_line(line *l, double x) {
    if (l->max != l->max || x <= l->max) return;
    state s = state_from_line(l);
    if (x != x)
        set_nan(&s);
    else
        raise_max(&s, x);
    line_from_state(l, &s);
}

/* Takes x as the maximum of its group if it is. */
INLINE void raise_line(line *l, double x) {
    if (__builtin_expect(x <= l->cap, 1)) return;
    if (!(fabs(x) < FAR - SPAN) || (l->cap != l->cap && l->max != -INFINITY)) {
        raise_any_line(l, x);
        return;
    }
    double u = x * STEPS_PER_UNIT + ROUND;
    int64_t k = (int64_t)(bits_of(u) - ROUND_BITS) >> 7;
    if (k - l->base > LIMB_WIDTH - 2) {
        int64_t base = base_of_exponent(k), down = (base - l->base) / LIMB_WIDTH;
        for (int j = 2; j >= 0; j--) {
            l->low[j] = j >= down ? l->low[j - down] : 0;
            l->high[j] = j >= down ? l->high[j - down] : 0;
        }
        l->base = (int32_t)base;
    }
    l->max = l->cap = x + 0.0;
}

static __attribute__((noinline)) void add_rows_to_line(line *l, const double *x, size_t n) {
    state s = state_from_line(l);
    add_all(&s, x, n);
    line_from_state(l, &s);
}

INLINE double run_max(const double *x, size_t n) {
    if (n >= 32) return loops->block_max(x, n);
    double max = -INFINITY;
    int bad = 0;
    for (size_t i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
        bad |= x[i] != x[i];
    }
    return bad ? NAN : max;
}

typedef struct {
    double x[ROWS];
    uint64_t bias[ROWS];
    int64_t limb[3][ROWS];
    uint16_t start[ROWS + 1];
} pass;

/* Adds n <= ROWS rows, of left that follow in memory. Rows of one code in a row are one run; with single, every row is. */
INLINE void add_runs(line *lines, const int32_t *codes, const double *x, size_t n, size_t left, pass *p, size_t runs, int single) {
#define START(r) (single ? (r) : p->start[r])
    for (size_t r = 0; r < runs; r++) {
        size_t j = START(r);
        __builtin_prefetch(&lines[codes[j + AHEAD < left ? j + AHEAD : j]], 1);
        raise_line(&lines[codes[j]], single ? x[j] : run_max(x + j, START(r + 1) - j));
    }
    /* Only now has every line its maximum, and with it the grid, of this pass. */
    for (size_t r = 0; r < runs; r++) {
        size_t j = START(r), end = START(r + 1);
        line *l = &lines[codes[j]];
        double floor = l->cap - SPAN;
        uint64_t bias = bias_of(l->base);
        if (__builtin_expect(floor == floor, 1)) {
            count_rows(l, (int64_t)(end - j));
            for (; j < end; j++) p->x[j] = x[j] > floor ? x[j] : floor, p->bias[j] = bias;
        } else {
            add_rows_to_line(l, x + j, end - j);
            for (; j < end; j++) p->x[j] = 0.0, p->bias[j] = bias_of(200); /* limbs of 0 */
        }
    }
    for (size_t j = n; j % 8; j++) p->x[j] = 0.0, p->bias[j] = 0;
    loops->cut_each(p->x, p->bias, (n + 7) / 8 * 8, p->limb[0], p->limb[1], p->limb[2]);
    for (size_t r = 0; r < runs; r++) {
        size_t j = START(r), end = START(r + 1);
        __builtin_prefetch(x + ROWS + j);
        __builtin_prefetch(codes + ROWS + j);
        int64_t sum[3] = {0, 0, 0};
        line *l = &lines[codes[j]];
        for (; j < end; j++)
            for (int i = 0; i < 3; i++) sum[i] += p->limb[i][j];
        for (int i = 0; i < 3; i++) l->low[i] += sum[i];
    }
#undef START
}

static void add_rows(line *lines, const int32_t *codes, const double *x, size_t n, size_t left, pass *p) {
    size_t runs = 1;
    for (size_t j = 1; j < n; j++) runs += codes[j] != codes[j - 1];
    if (runs == 1) {
        add_rows_to_line(&lines[codes[0]], x, n);
    } else if (runs * 3 > n) {
        add_runs(lines, codes, x, n, left, p, n, 1);
    } else {
        p->start[0] = 0;
        runs = 1;
        for (size_t j = 1; j < n; j++) {
            p->start[runs] = (uint16_t)j;
            runs += codes[j] != codes[j - 1];
        }
        p->start[runs] = (uint16_t)n;
        add_runs(lines, codes, x, n, left, p, runs, 0);
    }
}

/* Large tables of lines or slots are visited at random: huge pages save most of the address translation. */
static void advise_huge_pages(void *memory, size_t size) {
#ifdef MADV_HUGEPAGE
    size_t page = (size_t)1 << 21, begin = ((uintptr_t)memory + page - 1) & ~(page - 1), end = (uintptr_t)memory + size;
    if (size >= 2 * page && end > begin) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)memory, (void)size;
#endif
}

static void *allocate(size_t size) {
    size_t page = (size_t)1 << 21;
    void *memory = NULL;
    if (posix_memalign(&memory, size < 2 * page ? 64 : page, size ? size : 64)) return NULL;
    advise_huge_pages(memory, size);
    return memory;
}

enum { DONE = 0, NO_MEMORY = -1, COUNT_OVERFLOW = -2, BAD_CODE = -3, TOO_MANY = -4 };

static int codes_in_range(const int32_t *codes, size_t n, size_t groups) {
    uint32_t largest = 0;
    for (size_t i = 0; i < n; i++) largest = (uint32_t)codes[i] > largest ? (uint32_t)codes[i] : largest;
    return n == 0 || largest < groups;
}

static int codes_ascend(const int32_t *codes, size_t n) {
    for (size_t i = 0; i < n; i += ROWS) {
        int descents = 0;
        for (size_t j = i + 1; j < n && j <= i + ROWS; j++) descents += codes[j] < codes[j - 1];
        if (descents) return 0;
    }
    return 1;
}

static void store_line(record *r, const line *l) {
    state s = state_from_line(l);
    store(r, &s);
}

/* In ascending codes a group is complete when the next one begins: only the lines of one pass are in use. */
static void group_ascending(record *records, size_t groups, const int32_t *codes, const double *x, size_t n, line empty, pass *p) {
    line lines[ROWS + 1];
    int32_t place[ROWS];
    size_t next = 0;
    lines[0] = empty;
    for (size_t i = 0; i < n; i += ROWS) {
        size_t size = n - i < ROWS ? n - i : ROWS;
        int32_t last = 0;
        if (codes[i ? i - 1 : 0] == codes[i + size - 1]) { /* one long run */
            add_rows_to_line(&lines[0], x + i, size);
            continue;
        }
        for (size_t j = 0; j < size; j++) {
            if (i + j > 0 && codes[i + j] != codes[i + j - 1]) lines[++last] = empty;
            place[j] = last;
        }
        /* A pass that begins with a new group leaves the carried line as it is. */
        add_rows(lines, place, x + i, size, size, p);
        int32_t code = i ? codes[i - 1] : codes[0];
        for (size_t j = 0; j < size; j++) {
            if (codes[i + j] == code) continue;
            while (next < (size_t)code) store(records + next++, &EMPTY);
            store_line(records + next++, &lines[place[j] - 1]);
            code = codes[i + j];
        }
        lines[0] = lines[last];
    }
    if (n) {
        while (next < (size_t)codes[n - 1]) store(records + next++, &EMPTY);
        store_line(records + next++, &lines[0]);
    }
    while (next < groups) store(records + next++, &EMPTY);
}

/* Adds values to the lines of their codes. */
static void add_values(line *lines, const int32_t *codes, const double *x, size_t n) {
    pass p;
    for (size_t i = 0; i < n; i += ROWS) add_rows(lines, codes + i, x + i, n - i < ROWS ? n - i : ROWS, n - i, &p);
}

static int group_values(record *records, size_t groups, const int32_t *codes, const void *values, size_t n) {
    const double *x = values;
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    line empty;
    line_from_state(&empty, &EMPTY);
    pass p;
    if (codes_ascend(codes, n)) {
        group_ascending(records, groups, codes, x, n, empty, &p);
        return DONE;
    }
    line *lines = allocate(groups * sizeof(line));
    if (!lines) return NO_MEMORY;
    for (size_t i = 0; i < groups; i++) lines[i] = empty;
    add_values(lines, codes, x, n);
    for (size_t i = 0; i < groups; i++) store_line(records + i, lines + i);
    free(lines);
    return DONE;
}

/* Merges states into the records of their codes. */
static int add_records(record *records, const int32_t *codes, const record *states, size_t n) {
    for (size_t i = 0; i < n; i++) {
        record *r = records + codes[i];
        __builtin_prefetch(records + codes[i + 16 < n ? i + 16 : i], 1);
        state s = load(r);
        if (merge(&s, load(states + i))) return COUNT_OVERFLOW;
        store(r, &s);
    }
    return DONE;
}

/* Merges states into the lines of their codes. The counts are those of rows that a line would hold, up to 2^42. */
static int add_records_to_lines(line *lines, const int32_t *codes, const record *states, size_t n) {
    for (size_t i = 0; i < n; i++) {
        line *l = lines + codes[i];
        state s = state_from_line(l);
        if (merge(&s, load(states + i)) || s.count > (1LL << 42)) return COUNT_OVERFLOW;
        line_from_state(l, &s);
    }
    return DONE;
}

static int merge_groups(record *records, size_t groups, const int32_t *codes, const void *others, size_t n) {
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    for (size_t i = 0; i < groups; i++) store(records + i, &EMPTY);
    return add_records(records, codes, others, n);
}

/* Adds w e^(c x) to the states of their codes; without weights every one is 1. */
static int add_terms(state *states, const int32_t *codes, const double *x, const double *w, size_t n, scale c) {
    double ones[ROWS];
    products *p = malloc(sizeof *p);
    if (!p) return NO_MEMORY;
    for (size_t i = 0; i < ROWS; i++) ones[i] = 1.0;
    for (size_t i = 0; i < n; i += ROWS) {
        size_t size = n - i < ROWS ? n - i : ROWS, runs = 1;
        const double *weights = w ? w + i : ones;
        for (size_t j = 1; j < size; j++) runs += codes[i + j] != codes[i + j - 1];
        if (runs == 1) {
            add_weighed(states + codes[i], x + i, weights, size, c, p);
        } else {
            weigh_rows(x + i, weights, size, c, p);
            for (size_t j = 0; j < size; j++) {
                state *s = states + codes[i + j];
                __builtin_prefetch(states + codes[i + (j + 16 < size ? j + 16 : j)], 1);
                if (p->exponent[j] != NOTHING) add_product(s, x[i + j], p->high[j], p->low[j], p->exponent[j]);
                s->count++;
            }
        }
        for (size_t j = 0; p->odd && j < size; j++) add_odd(states + codes[i + j], x[i + j], weights[j], c, w != NULL);
    }
    free(p);
    return DONE;
}

static int group_terms(record *records, size_t groups, const int32_t *codes, const double *x, const double *w, size_t n, scale c) {
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
    int exponent, negative = is_negative(s->limb);
    for (int j = 0; j < 3; j++) sum[j] = negative ? -s->limb[j] : s->limb[j];
    pair_of(sum, &high, &low);
    if (high == 0.0) return r;
    frexp(high, &exponent);
    divide(1.0, 0.0, ldexp(high, -exponent), ldexp(low, -exponent), &r.high, &r.low);
    if (negative) r.high = -r.high, r.low = -r.low;
    r.is_far = !is_near_base(s->base);
    r.exponent = -exponent - (s->base == NO_BASE ? 0 : r.is_far ? s->base - FAR_BASE : s->base);
    return r;
}

/* e^(c x) / S, with S the sum whose reciprocal the code of each row names. */
static int weights_of(const reciprocal *table, size_t groups, const int32_t *codes, const double *x, size_t n, scale c, double *out) {
    double ones[ROWS];
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    products *p = malloc(sizeof *p);
    factors *f = malloc(sizeof *f);
    if (!p || !f) {
        free(p), free(f);
        return NO_MEMORY;
    }
    for (size_t i = 0; i < ROWS; i++) ones[i] = 1.0, f->high[i] = f->low[i] = 0.0, f->exponent[i] = 0;
    for (size_t i = 0; i < n; i += ROWS) {
        size_t size = n - i < ROWS ? n - i : ROWS;
        int any_far = 0;
        weigh_rows(x + i, ones, size, c, p);
        for (size_t j = 0; j < size; j++) {
            const reciprocal *r = table + codes[i + j];
            f->high[j] = r->high, f->low[j] = r->low, f->exponent[j] = r->exponent;
            any_far |= r->is_far;
        }
        loops->multiply(p, f, size, out + i);
        if (!any_far && !p->odd) continue;
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

/* --- exact sums ------------------------------------------------------------------------------------------------- */

/* A sum of products of doubles as an integer in units of 2^-2176: chunk i counts 2^(32 i) of them. A product adds less than
   2^54 to a chunk, so some hundred fit before carries have to be propagated. After R. M. Neal, "Fast exact summation using small and large
   superaccumulators" (2015). The number alone decides its digits: they are the canonical form. */
#define CHUNKS 140
#define WORDS (CHUNKS / 2 + 2) /* of the sign at most two more */
#define UNIT (-2176)
#define ADDITIONS 256

typedef struct {
    int64_t chunk[2 * WORDS];
    int first, last; /* of the chunks that are not 0 */
    uint32_t additions;
    uint32_t special;
} exact_sum;

/* As it is stored: this head, then words of 64 bits in two's complement, the lowest first; no more than are needed. */
typedef struct {
    int16_t low; /* place of the first word */
    uint16_t words;
    uint32_t special;
} exact_head;

enum { PLUS_INFINITY = 1, MINUS_INFINITY = 2, NOT_A_NUMBER = PLUS_INFINITY | MINUS_INFINITY };

static void clear(exact_sum *s) {
    memset(s, 0, sizeof *s);
    s->first = CHUNKS;
    s->last = -1;
}

static void propagate(exact_sum *s) {
    int64_t carry = 0;
    int i = s->first;
    for (; i < CHUNKS - 1 && (i <= s->last || (carry != 0 && carry != -1)); i++) {
        int64_t total = s->chunk[i] + carry;
        s->chunk[i] = total & 0xffffffff;
        carry = total >> 32;
    }
    if (carry) { /* the sign: the top chunk alone is negative */
        s->chunk[i] += carry;
        s->last = i;
    }
    s->additions = 0;
}

/* Adds +-bits 2^at units, bits < 2^53. */
INLINE void add_bits(exact_sum *s, int at, uint64_t bits, int64_t negative) {
    int chunk = at >> 5, shift = at & 31;
    int64_t low = (int64_t)(bits << shift & 0xffffffff), high = (int64_t)(bits >> (32 - shift));
    s->chunk[chunk] += (low ^ -negative) + negative;
    s->chunk[chunk + 1] += (high ^ -negative) + negative;
    s->first = chunk < s->first ? chunk : s->first;
    s->last = chunk + 1 > s->last ? chunk + 1 : s->last;
}

/* The integer m of x = +-m 2^exponent. */
INLINE uint64_t mantissa_of(double x, int *exponent) {
    uint64_t bits = bits_of(x) & 0x7fffffffffffffffULL, field = bits >> 52;
    *exponent = (int)(field ? field : 1) - 1075;
    return (bits & 0xfffffffffffffULL) | (uint64_t)(field != 0) << 52;
}

/* Adds a b; nothing where b is 0. */
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

static void add_stored(exact_sum *s, const uint64_t *stored) {
    exact_head head;
    memcpy(&head, stored, sizeof head);
    s->special |= head.special;
    for (int i = 0; i < head.words; i++) {
        int64_t upper = (int64_t)stored[1 + i] >> 32; /* the last word has the sign */
        int at = 2 * (head.low + i);
        s->chunk[at] += (int64_t)(stored[1 + i] & 0xffffffff);
        s->chunk[at + 1] += i + 1 < head.words ? (int64_t)(uint32_t)upper : upper;
    }
    if (head.words) {
        s->first = 2 * head.low < s->first ? 2 * head.low : s->first;
        s->last = 2 * (head.low + head.words) > s->last ? 2 * (head.low + head.words) : s->last;
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
        head.low = (int16_t)(head.words ? low + skip : 0);
    }
    clear(s);
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
    int result = NO_MEMORY, is_sorted = codes_ascend(codes, n);
    size_t size = (groups + 1) * sizeof(int64_t);
    int64_t *ends = allocate(size), *places = allocate(size);
    void *sorted_a = is_sorted ? NULL : allocate(n * 8), *sorted_b = is_sorted || !b ? NULL : allocate(n * 8);
    if (ends && places && (is_sorted || (sorted_a && (sorted_b || !b)))) {
        memset(ends, 0, size);
        for (size_t i = 0; i < n; i++) ends[codes[i] + 1]++;
        for (size_t g = 0; g < groups; g++) ends[g + 1] += ends[g];
        if (!is_sorted) {
            memcpy(places, ends, size);
            sort_by_code(codes, a, n, places, sorted_a);
            memcpy(places, ends, size);
            if (b) sort_by_code(codes, b, n, places, sorted_b);
            a = sorted_a, b = sorted_b;
        }
        exact_sum s;
        clear(&s);
        result = DONE;
        for (size_t g = 0; g < groups && result == DONE; g++) {
            begins[g] = (int64_t)out->size;
            for (int64_t i = ends[g]; i < ends[g + 1]; i++)
                if (words)
                    add_stored(&s, words + ((const int64_t *)a)[i]);
                else
                    add_product_of(&s, ((const double *)a)[i], b ? b[i] : 1.0);
            result = append_exact(out, &s);
        }
        begins[groups] = (int64_t)out->size;
    }
    free(ends), free(places), free(sorted_a), free(sorted_b);
    return result;
}

#include "key_index.h"

/* --- module ----------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    state s;
} StateObject;

static PyTypeObject *StateType;

static PyObject *State_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    StateObject *self = (StateObject *)alloc(type, 0);
    if (self) self->s = EMPTY;
    return (PyObject *)self;
}

static void State_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *State_add(PyObject *self, PyObject *x) {
    state *s = &((StateObject *)self)->s;
    if (PyFloat_Check(x)) {
        add(s, PyFloat_AsDouble(x));
        Py_RETURN_NONE;
    }
    PyObject *wide_x = PyObject_CallMethod(self, "_widen", "O", x);
    if (!wide_x) return NULL;
    double value = PyFloat_AsDouble(wide_x);
    Py_DECREF(wide_x);
    if (value == -1.0 && PyErr_Occurred()) return NULL;
    add(s, value);
    Py_RETURN_NONE;
}

static PyObject *merge_error(void) {
    PyErr_SetString(PyExc_OverflowError, "the count of a merged state exceeds 2^63 - 1");
    return NULL;
}

static PyObject *State_update(PyObject *self, PyObject *values) {
    Py_buffer view;
    if (PyObject_GetBuffer(values, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) return NULL;
    int is_float = strcmp(view.format, "f") == 0;
    if (!is_float && strcmp(view.format, "d") != 0) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_TypeError, "expected a contiguous array of float64 or float32");
        return NULL;
    }
    state part = EMPTY; /* not the object's own: other threads may run meanwhile */
    Py_BEGIN_ALLOW_THREADS
    if (is_float)
        add_all_float(&part, view.buf, (size_t)view.len / sizeof(float));
    else
        add_all(&part, view.buf, (size_t)view.len / sizeof(double));
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    if (merge(&((StateObject *)self)->s, part)) return merge_error();
    Py_RETURN_NONE;
}

static PyObject *State_merge(PyObject *self, PyObject *other) {
    if (!PyObject_TypeCheck(other, StateType)) {
        PyErr_Format(PyExc_TypeError, "expected a state to merge, found %R", Py_TYPE(other));
        return NULL;
    }
    if (merge(&((StateObject *)self)->s, ((StateObject *)other)->s)) return merge_error();
    Py_RETURN_NONE;
}

static PyObject *State_value(PyObject *self, PyObject *ignored) {
    (void)ignored;
    record r;
    double value;
    store(&r, &((StateObject *)self)->s);
    values_of(&r, 1, &value);
    return PyFloat_FromDouble(value);
}

static PyObject *State_to_bytes(PyObject *self, PyObject *ignored) {
    (void)ignored;
    record r;
    store(&r, &((StateObject *)self)->s);
    return PyBytes_FromStringAndSize((const char *)&r, sizeof r);
}

/* Takes a record over, or returns which of FAULTS it has. */
static PyObject *State_load(PyObject *self, PyObject *bytes) {
    if (!PyBytes_Check(bytes) || PyBytes_Size(bytes) != sizeof(record)) {
        PyErr_SetString(PyExc_ValueError, "expected the bytes of one record");
        return NULL;
    }
    const record *r = (const record *)PyBytes_AsString(bytes);
    int fault = fault_of(r, NATURAL, 0);
    if (fault >= 0) return PyLong_FromLong(fault);
    ((StateObject *)self)->s = load(r);
    Py_RETURN_NONE;
}

static PyObject *State_count(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromLongLong(((StateObject *)self)->s.count);
}

static PyObject *State_max(PyObject *self, void *closure) {
    (void)closure;
    return PyFloat_FromDouble(((StateObject *)self)->s.max);
}

static PyMethodDef State_methods[] = {
    {"add", State_add, METH_O, "Adds one number."},
    {"merge", State_merge, METH_O, "Adds all that another state holds; the other is left as it is."},
    {"value", State_value, METH_NOARGS, "The log-sum-exp, rounded once."},
    {"to_bytes", State_to_bytes, METH_NOARGS, "The canonical record."},
    {"_update", State_update, METH_O, NULL},
    {"_load", State_load, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef State_getset[] = {
    {"count", State_count, NULL, "How many terms were added.", NULL},
    {"max", State_max, NULL, "The largest term's logarithm; -inf where there is none.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot State_slots[] = {
    {Py_tp_new, State_new}, {Py_tp_dealloc, State_dealloc}, {Py_tp_methods, State_methods}, {Py_tp_getset, State_getset}, {0, NULL},
};

static PyType_Spec State_spec = {
    "lse_stream._kernel.native.State", sizeof(StateObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, State_slots,
};

/* Opens n contiguous buffers; '*' marks one to write. All or none are open after it. */
static int open_buffers(PyObject *args, const char *modes, Py_buffer *views) {
    Py_ssize_t n = (Py_ssize_t)strlen(modes);
    if (PyTuple_Size(args) != n) {
        PyErr_Format(PyExc_TypeError, "expected %zd arrays, found %zd", n, PyTuple_Size(args));
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        if (PyObject_GetBuffer(PyTuple_GetItem(args, i), views + i, modes[i] == '*' ? PyBUF_CONTIG : PyBUF_CONTIG_RO)) {
            while (i--) PyBuffer_Release(views + i);
            return -1;
        }
    return 0;
}

static void close_buffers(Py_buffer *views, int n) {
    for (int i = 0; i < n; i++) PyBuffer_Release(views + i);
}

static PyObject *outcome(int result) {
    switch (result) {
    case DONE: Py_RETURN_NONE;
    case NO_MEMORY: return PyErr_NoMemory();
    case COUNT_OVERFLOW: return merge_error();
    case TOO_MANY: PyErr_SetString(PyExc_OverflowError, "more than 2^31 - 1 distinct keys"); return NULL;
    default: PyErr_SetString(PyExc_IndexError, "a code is not in [0, number of groups)"); return NULL;
    }
}

#define LENGTH(view, type) ((size_t)(view).len / sizeof(type))

static PyObject *mismatch(Py_buffer *views, int n) {
    close_buffers(views, n);
    PyErr_SetString(PyExc_ValueError, "arrays of different lengths");
    return NULL;
}

typedef int by_group(record *out, size_t groups, const int32_t *codes, const void *items, size_t n);

/* Calls work(out, codes, items) without the GIL. */
static PyObject *run_by_group(PyObject *args, by_group *work, size_t item_size) {
    Py_buffer v[3];
    if (open_buffers(args, "*..", v)) return NULL;
    size_t n = LENGTH(v[1], int32_t);
    if (n != (size_t)v[2].len / item_size) return mismatch(v, 3);
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = work(v[0].buf, LENGTH(v[0], record), v[1].buf, v[2].buf, n);
    Py_END_ALLOW_THREADS
    close_buffers(v, 3);
    return outcome(result);
}

static PyObject *finished(Py_buffer *views, int n, int result) {
    close_buffers(views, n);
    return outcome(result);
}

#define SCALE_OF(view) (*(const scale *)(view).buf)

/* (out, codes, x, weights or none, scale) */
static PyObject *py_group_terms(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[5];
    if (open_buffers(args, "*....", v)) return NULL;
    size_t n = LENGTH(v[1], int32_t), weights = LENGTH(v[3], double);
    if (n != LENGTH(v[2], double) || (weights && weights != n) || v[4].len != sizeof(scale)) return mismatch(v, 5);
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = group_terms(v[0].buf, LENGTH(v[0], record), v[1].buf, v[2].buf, weights ? v[3].buf : NULL, n, SCALE_OF(v[4]));
    Py_END_ALLOW_THREADS
    return finished(v, 5, result);
}

/* (x, out): x has a row for each of out */
static PyObject *py_row_values(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, ".*", v)) return NULL;
    size_t n = LENGTH(v[1], double), size = LENGTH(v[0], double);
    if (n == 0 ? size != 0 : size % n != 0) return mismatch(v, 2);
    Py_BEGIN_ALLOW_THREADS
    if (n) row_values(v[0].buf, n, size / n, v[1].buf);
    Py_END_ALLOW_THREADS
    close_buffers(v, 2);
    Py_RETURN_NONE;
}

/* (states, counts, scale, out): out has 5 columns */
static PyObject *py_quotients_of(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[4];
    if (open_buffers(args, "...*", v)) return NULL;
    size_t n = LENGTH(v[0], record);
    if (n != LENGTH(v[1], int64_t) || n != LENGTH(v[3], quotient) || v[2].len != sizeof(scale)) return mismatch(v, 4);
    Py_BEGIN_ALLOW_THREADS
    for (size_t i = 0; i < n; i++) {
        state s = load((const record *)v[0].buf + i);
        ((quotient *)v[3].buf)[i] = quotient_of(&s, ((const int64_t *)v[1].buf)[i], SCALE_OF(v[2]));
    }
    Py_END_ALLOW_THREADS
    close_buffers(v, 4);
    Py_RETURN_NONE;
}

/* (states, out): out has 5 words for each */
static PyObject *py_reciprocals_of(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, ".*", v)) return NULL;
    size_t n = LENGTH(v[0], record);
    if (n != LENGTH(v[1], reciprocal)) return mismatch(v, 2);
    Py_BEGIN_ALLOW_THREADS
    for (size_t i = 0; i < n; i++) {
        state s = load((const record *)v[0].buf + i);
        ((reciprocal *)v[1].buf)[i] = reciprocal_of(&s);
    }
    Py_END_ALLOW_THREADS
    return finished(v, 2, DONE);
}

/* (reciprocals, codes, x, scale, out) */
static PyObject *py_weights_of(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[5];
    if (open_buffers(args, "....*", v)) return NULL;
    size_t n = LENGTH(v[1], int32_t);
    if (n != LENGTH(v[2], double) || n != LENGTH(v[4], double) || v[3].len != sizeof(scale)) return mismatch(v, 5);
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = weights_of(v[0].buf, LENGTH(v[0], reciprocal), v[1].buf, v[2].buf, n, SCALE_OF(v[3]), v[4].buf);
    Py_END_ALLOW_THREADS
    return finished(v, 5, result);
}

/* (codes, a, b or none, begins) or (codes, words, at, begins): the words */
static PyObject *run_sums(PyObject *args, int stored) {
    Py_buffer v[4];
    if (open_buffers(args, "...*", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t), second = LENGTH(v[2], int64_t), begins = LENGTH(v[3], int64_t);
    if (begins == 0 || (stored ? second != n : LENGTH(v[1], double) != n || (second && second != n))) return mismatch(v, 4);
    buffer out = {NULL, 0, 0};
    int result;
    Py_BEGIN_ALLOW_THREADS
    if (stored)
        result = sum_groups(v[0].buf, v[2].buf, NULL, v[1].buf, n, begins - 1, v[3].buf, &out);
    else
        result = sum_groups(v[0].buf, v[1].buf, second ? v[2].buf : NULL, NULL, n, begins - 1, v[3].buf, &out);
    Py_END_ALLOW_THREADS
    close_buffers(v, 4);
    PyObject *words = result == DONE ? PyBytes_FromStringAndSize((const char *)out.data, (Py_ssize_t)out.size * 8) : outcome(result);
    free(out.data);
    return words;
}

static PyObject *py_sum_products(PyObject *module, PyObject *args) {
    (void)module;
    return run_sums(args, 0);
}

static PyObject *py_merge_sums(PyObject *module, PyObject *args) {
    (void)module;
    return run_sums(args, 1);
}

static PyObject *py_group_values(PyObject *module, PyObject *args) {
    (void)module;
    return run_by_group(args, group_values, sizeof(double));
}

static PyObject *py_merge_groups(PyObject *module, PyObject *args) {
    (void)module;
    return run_by_group(args, merge_groups, sizeof(record));
}

static PyObject *py_values_of(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, ".*", v)) return NULL;
    size_t n = LENGTH(v[0], record);
    if (n != LENGTH(v[1], double)) return mismatch(v, 2);
    Py_BEGIN_ALLOW_THREADS
    values_of(v[0].buf, n, v[1].buf);
    Py_END_ALLOW_THREADS
    close_buffers(v, 2);
    Py_RETURN_NONE;
}

static PyObject *py_check(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, "...", v)) return NULL;
    if (v[1].len != sizeof(scale) || v[2].len != 1) return mismatch(v, 3);
    size_t n = LENGTH(v[0], record), row = 0;
    int fault = -1, is_signed = *(const char *)v[2].buf;
    Py_BEGIN_ALLOW_THREADS
    for (; row < n && (fault = fault_of((const record *)v[0].buf + row, SCALE_OF(v[1]), is_signed)) < 0; row++);
    Py_END_ALLOW_THREADS
    close_buffers(v, 3);
    if (fault < 0) Py_RETURN_NONE;
    return Py_BuildValue("ni", (Py_ssize_t)row, fault);
}

/* (offsets, data, out) */
static PyObject *py_checksum_bytes(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, "..*", v)) return NULL;
    size_t n = LENGTH(v[2], uint64_t), item = (size_t)v[0].itemsize;
    if ((item != 4 && item != 8) || (size_t)v[0].len != (n + 1) * item) return mismatch(v, 3);
    Py_BEGIN_ALLOW_THREADS
    checksum_bytes(v[0].buf, item, v[1].buf, n, v[2].buf);
    Py_END_ALLOW_THREADS
    return finished(v, 3, DONE);
}

/* (hashes, words, valid or none) */
static PyObject *py_hash_column(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, "*..", v)) return NULL;
    size_t n = LENGTH(v[0], uint64_t);
    if (LENGTH(v[1], uint64_t) != n || (v[2].len && (size_t)v[2].len != n)) return mismatch(v, 3);
    Py_BEGIN_ALLOW_THREADS
    hash_column(v[0].buf, v[1].buf, v[2].len ? v[2].buf : NULL, n);
    Py_END_ALLOW_THREADS
    return finished(v, 3, DONE);
}

/* (shards, rows, ends) */
static PyObject *py_rows_by_shard(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, ".**", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t), num_shards = LENGTH(v[2], int64_t);
    if (LENGTH(v[1], int64_t) != n) return mismatch(v, 3);
    int result = codes_in_range(v[0].buf, n, num_shards) ? DONE : BAD_CODE;
    Py_BEGIN_ALLOW_THREADS
    if (result == DONE) rows_by_shard(v[0].buf, n, num_shards, v[1].buf, v[2].buf);
    Py_END_ALLOW_THREADS
    return finished(v, 3, result);
}

#include "growing.h"

static PyObject *py_instruction_sets(PyObject *module, PyObject *ignored) {
    (void)module, (void)ignored;
    PyObject *names = PyTuple_New(n_supported);
    for (int i = 0; names && i < n_supported; i++) {
        PyObject *name = PyUnicode_FromString(supported[i]->name);
        if (!name || PyTuple_SetItem(names, i, name)) {
            Py_DECREF(names);
            return NULL;
        }
    }
    return names;
}

static PyObject *py_select(PyObject *module, PyObject *name) {
    (void)module;
    for (int i = 0; i < n_supported; i++)
        if (PyUnicode_CompareWithASCIIString(name, supported[i]->name) == 0) {
            loops = supported[i];
            Py_RETURN_NONE;
        }
    PyErr_Format(PyExc_ValueError, "no instruction set %R on this machine", name);
    return NULL;
}

static PyMethodDef methods[] = {
    {"group_values", py_group_values, METH_VARARGS, "(out, codes, values): writes the state of each code's values."},
    {"merge_groups", py_merge_groups, METH_VARARGS, "(out, codes, states): writes the merged state of each code's states."},
    {"values_of", py_values_of, METH_VARARGS, "(states, out): writes each log-sum-exp."},
    {"group_terms", py_group_terms, METH_VARARGS, "(out, codes, x, weights, scale): the same for w e^(c x); no weights: 1."},
    {"row_values", py_row_values, METH_VARARGS, "(x, out): writes the log-sum-exp of each row of x."},
    {"quotients_of", py_quotients_of, METH_VARARGS, "(states, counts, scale, out): writes sign, log and value of sum / (count max)."},
    {"reciprocals_of", py_reciprocals_of, METH_VARARGS, "(states, out): writes what weights_of needs of each sum."},
    {"weights_of", py_weights_of, METH_VARARGS, "(reciprocals, codes, x, scale, out): writes e^(c x) over the sum of its code."},
    {"sum_products", py_sum_products, METH_VARARGS, "(codes, a, b, begins): the exact sums of a b as words; no b: 1."},
    {"merge_sums", py_merge_sums, METH_VARARGS, "(codes, words, at, begins): the same of stored sums."},
    {"check", py_check, METH_VARARGS, "(states, scale, signed): (row, fault) of the first record that is not canonical, or None."},
    {"hash_column", py_hash_column, METH_VARARGS, "(hashes, words, valid): takes a key column into the hashes of rows."},
    {"rows_by_shard", py_rows_by_shard, METH_VARARGS, "(shards, rows, ends): writes the rows of each shard, and where they end."},
    {"checksum_bytes", py_checksum_bytes, METH_VARARGS, "(offsets, data, out): writes CRC-32 and length of each byte string."},
    {"instruction_sets", py_instruction_sets, METH_NOARGS, "What this machine can run, fastest first."},
    {"select", py_select, METH_O, "Uses an instruction set from now on."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_native(void) {
    find_supported();
    make_crc_table();
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    StateType = (PyTypeObject *)PyType_FromSpec(&State_spec);
    if (!StateType || PyModule_AddObjectRef(module, "State", (PyObject *)StateType) || add_growing_types(module)) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
