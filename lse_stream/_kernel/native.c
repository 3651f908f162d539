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
#define NO_BASE INT64_MIN

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

typedef struct {
    const char *name;
    double (*block_max)(const double *x, size_t n);
    void (*sum_near)(const double *x, size_t n, double floor, int64_t base, int64_t out[3]);
    void (*sum_far)(const double *x, size_t n, double floor, int64_t base, int64_t out[3]);
    void (*cut_each)(const double *x, const uint64_t *bias, size_t n, int64_t *h0, int64_t *h1, int64_t *h2);
    void (*own_terms)(const double *x, const uint64_t *bias, size_t n, double *term, double *term_low, int64_t own[3][BATCH]);
    void (*finish)(const double *max, const double *term, const double *term_low, double digits[5][BATCH], size_t n, double *out);
    void (*widen)(const float *x, size_t n, double *out);
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
    term_portable(x, 1, &high, &low, &steps, &turns);
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
    term_portable(x, 1, &high, &low, &steps, &turns);
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
        if (is_near(s->max) ? is_near(other.max) : other.max == s->max) {
            if (is_near(s->max)) move_to(other.limb, other.base, s->base);
            for (int j = 0; j < 3; j++) s->limb[j] += other.limb[j];
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

/* Index of the fault in record.py's FAULTS, or -1. */
static int fault_of(const record *r) {
    if (r->version != 1) return 0;
    if (r->kind != 0) return 1;
    if (r->scale != 0) return 2;
    if (r->reserved != 0) return 3;
    if (r->count < 0) return 4;
    state s = load(r);
    if (s.max != s.max && bits_of(s.max) != 0x7ff8000000000000ULL) return 5;
    if (bits_of(s.max) == 1ULL << 63 || (s.count == 0 && s.max != -INFINITY)) return 5;
    if (s.base != (is_near(s.max) ? base_of(s.max) : NO_BASE)) return 6;
    if (is_near(s.max)) {
        int64_t own[3];
        limbs_of(s.max, s.base, own);
        for (int j = 0; j < 3; j++)
            if (s.limb[j] >> LIMB_WIDTH < -s.count || s.limb[j] >> LIMB_WIDTH > s.count) return 7;
        for (int j = 0; j < 3; j++) s.limb[j] -= own[j];
        return s.limb[0] + ((s.limb[1] + (s.limb[2] >> LIMB_WIDTH)) >> LIMB_WIDTH) < 0 ? 7 : -1;
    }
    int first = isfinite(s.max) ? s.limb[0] > 0 && s.limb[0] <= s.count : s.limb[0] == 0;
    return first && s.limb[1] == 0 && s.limb[2] == 0 ? -1 : 7;
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

#define ROWS 512  /* rows of one pass: their limbs stay in the first-level cache */
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
static void *allocate(size_t size) {
    size_t page = (size_t)1 << 21;
    void *memory = NULL;
    if (posix_memalign(&memory, size < 2 * page ? 64 : page, size ? size : 64)) return NULL;
#ifdef MADV_HUGEPAGE
    if (size >= 2 * page) madvise(memory, size, MADV_HUGEPAGE);
#endif
    return memory;
}

enum { DONE = 0, NO_MEMORY = -1, COUNT_OVERFLOW = -2, BAD_CODE = -3 };

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
    for (size_t i = 0; i < n; i += ROWS) add_rows(lines, codes + i, x + i, n - i < ROWS ? n - i : ROWS, n - i, &p);
    for (size_t i = 0; i < groups; i++) store_line(records + i, lines + i);
    free(lines);
    return DONE;
}

static int merge_groups(record *records, size_t groups, const int32_t *codes, const void *others, size_t n) {
    const record *states = others;
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    for (size_t i = 0; i < groups; i++) store(records + i, &EMPTY);
    for (size_t i = 0; i < n; i++) {
        record *r = records + codes[i];
        __builtin_prefetch(records + codes[i + 16 < n ? i + 16 : i], 1);
        state s = load(r);
        if (merge(&s, load(states + i))) return COUNT_OVERFLOW;
        store(r, &s);
    }
    return DONE;
}

/* --- dense codes of integer keys -------------------------------------------------------------------------------- */

typedef struct {
    int64_t key;
    int32_t code; /* -1: free */
} slot;

/* Fibonacci hashing (Knuth, TAOCP 6.4): the upper bits of a product. */
INLINE size_t slot_of(int64_t key, int shift) { return (size_t)((uint64_t)key * 0x9E3779B97F4A7C15ULL >> shift); }

static slot *new_slots(int bits) {
    slot *slots = allocate(sizeof(slot) << bits);
    if (slots)
        for (size_t i = 0; i < (size_t)1 << bits; i++) slots[i].code = -1;
    return slots;
}

/* Codes in order of first appearance. Returns how many keys are distinct, or NO_MEMORY. */
static int64_t encode(const int64_t *keys, size_t n, int32_t *codes, int64_t *uniques) {
    int bits = 10;
    int32_t found = 0;
    slot *slots = new_slots(bits);
    if (!slots) return NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        size_t mask = ((size_t)1 << bits) - 1, at = slot_of(keys[i], 64 - bits);
        __builtin_prefetch(slots + slot_of(keys[i + 16 < n ? i + 16 : i], 64 - bits));
        while (slots[at].code >= 0 && slots[at].key != keys[i]) at = (at + 1) & mask;
        if (slots[at].code < 0) {
            slots[at].key = keys[i];
            slots[at].code = found;
            uniques[found++] = keys[i];
            if ((size_t)found > mask / 2) { /* at most half full */
                free(slots);
                bits += 2;
                if (!(slots = new_slots(bits))) return NO_MEMORY;
                mask = ((size_t)1 << bits) - 1;
                for (int32_t code = 0; code < found; code++) {
                    at = slot_of(uniques[code], 64 - bits);
                    while (slots[at].code >= 0) at = (at + 1) & mask;
                    slots[at].key = uniques[code];
                    slots[at].code = code;
                }
                codes[i] = found - 1;
                continue;
            }
        }
        codes[i] = slots[at].code;
    }
    free(slots);
    return found;
}

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
    int fault = fault_of(r);
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
    Py_buffer v[1];
    if (open_buffers(args, ".", v)) return NULL;
    size_t n = LENGTH(v[0], record), row = 0;
    int fault = -1;
    Py_BEGIN_ALLOW_THREADS
    for (; row < n && (fault = fault_of((const record *)v[0].buf + row)) < 0; row++);
    Py_END_ALLOW_THREADS
    close_buffers(v, 1);
    if (fault < 0) Py_RETURN_NONE;
    return Py_BuildValue("ni", (Py_ssize_t)row, fault);
}

static PyObject *py_encode_int64(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, ".**", v)) return NULL;
    size_t n = LENGTH(v[0], int64_t);
    if (n != LENGTH(v[1], int32_t) || n != LENGTH(v[2], int64_t)) return mismatch(v, 3);
    int64_t found;
    Py_BEGIN_ALLOW_THREADS
    found = encode(v[0].buf, n, v[1].buf, v[2].buf);
    Py_END_ALLOW_THREADS
    close_buffers(v, 3);
    return found < 0 ? PyErr_NoMemory() : PyLong_FromLongLong(found);
}

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
    {"check", py_check, METH_VARARGS, "(states): (row, fault) of the first record that is not canonical, or None."},
    {"encode_int64", py_encode_int64, METH_VARARGS, "(keys, codes, uniques): writes dense codes; how many are distinct."},
    {"instruction_sets", py_instruction_sets, METH_NOARGS, "What this machine can run, fastest first."},
    {"select", py_select, METH_O, "Uses an instruction set from now on."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_native(void) {
    find_supported();
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    StateType = (PyTypeObject *)PyType_FromSpec(&State_spec);
    if (!StateType || PyModule_AddObjectRef(module, "State", (PyObject *)StateType)) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
