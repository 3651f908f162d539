/* The instruction sets: an instance of the loops of vector_loops.h for each, their inputs and outputs, and the choice of
   one. */

typedef __int128 wide;
#define INLINE static inline __attribute__((always_inline))

#define BLOCK 2048       /* values of one pass over the cache, at most FLUSH */
#define BATCH 64         /* states finished together, a multiple of 8 */
#define ROWS_TOGETHER 64 /* most rows of a matrix finished together, a multiple of 8 */
#define LONG_ROW 24      /* columns from which on the values of one row share a vector, or rows have a lane each */
#define ROWS 512         /* rows of one pass by group: their limbs stay in the first-level cache */
#define PARTS 4          /* doubles that a sum of ROWS values or squares is taken apart to */

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

/* 2^exponent of a normal number. */
INLINE double power_of(int64_t exponent) { return double_of((uint64_t)(exponent + 1023) << 52); }

/* 2^-base as the function power of vector_loops.h takes it. */
INLINE uint64_t bias_of(int64_t base) { return (uint64_t)(1023 - base) * 128; }

/* What the values are multiplied by: ln b for a base b. The natural scale is 1. */
typedef struct {
    double high, low;
} scale;

static const scale NATURAL = {1.0, 0.0};

/* What values are added with: the maximum, whose ties are counted; the largest other value that may come, or -2^60 where that
   is more; what values count as at least, whose limbs are 0; and the base of the grid. */
typedef struct {
    double max, most, floor;
    int64_t base;
} limits;

/* Rows as w e^(c x) = (high + low) 2^exponent. Where nothing is added (w = 0, x = -inf) and for exceptional rows, high and
   low are 0 and the exponent is NO_EXPONENT. */
typedef struct {
    double high[ROWS], low[ROWS];
    int64_t exponent[ROWS];
    double max;      /* largest x that counts */
    int64_t top;     /* exponent of the largest rounded product */
    int exceptional; /* whether there are rows not for the loop: x is NaN, +inf, or too far from 0 */
} products;

/* What each row's product is multiplied by: (high + low) 2^exponent. */
typedef struct {
    double high[ROWS], low[ROWS];
    int64_t exponent[ROWS];
} factors;

/* What the values of sums are made of, BATCH at a time: the max, and once more where it is near, else 0; its ties less one, as a
   pair; the digits of the rest, the smallest first, and the base of their grid. */
typedef struct {
    double max[BATCH], near[BATCH], others[BATCH], others_low[BATCH], digits[5][BATCH];
    int64_t base[BATCH];
} totals;

/* The loops of vector_loops.h, where they are described. */
typedef struct {
    const char *name;
    double (*block_max)(const double *x, size_t n);
    double (*max_below)(const double *x, size_t n, double top);
    int (*sum_near)(const double *x, size_t n, const limits *at, int tied, int64_t out[3], int64_t *ties);
    int (*sum_far)(const double *x, size_t n, const limits *at, int tied, int64_t out[3], int64_t *ties);
    void (*cut_each)(const double *x, const uint64_t *bias, size_t n, int64_t *h0, int64_t *h1, int64_t *h2);
    void (*finish)(const totals *t, size_t n, double *out);
    void (*widen)(const float *x, size_t n, double *out);
    void (*weigh_near)(const double *x, const double *w, size_t n, scale c, products *p);
    void (*weigh_any)(const double *x, const double *w, size_t n, scale c, products *p);
    void (*sum_products)(const products *p, size_t n, int64_t base, int64_t out[3]);
    void (*multiply)(const products *p, const factors *f, size_t n, double *out);
    void (*rows)(const double *x, size_t n, size_t columns, double *out);
    void (*logs)(const double *high, const double *low, int64_t power, size_t n, double *log_high, double *log_low);
    int (*sum_in_parts)(const double *x, size_t n, double part[PARTS]);
    int (*squares_in_parts)(const double *x, size_t n, double part[PARTS]);
    void (*sum_logs)(const double *slope, size_t points, const double *x, size_t n, double *out);
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
#define PAIR_OF_ROWS(table, at, i, j) _mm256_loadu2_m128d((table)[(at)[j]], (table)[(at)[i]])
#define LOOKUP(table, index, a, b)                                                                   \
    do {                                                                                             \
        uint64_t at[4] __attribute__((aligned(32)));                                                 \
        _mm256_store_si256((__m256i *)at, (__m256i)(index));                                         \
        __m256d even = PAIR_OF_ROWS(table, at, 0, 2), odd = PAIR_OF_ROWS(table, at, 1, 3);           \
        *(a) = (VD)_mm256_unpacklo_pd(even, odd);                                                    \
        *(b) = (VD)_mm256_unpackhi_pd(even, odd);                                                    \
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
#define FLAGS __mmask8
#define NO_FLAGS 0
#define UNLESS_AT_MOST(v, most) _mm512_cmp_pd_mask((__m512d)(v), (__m512d)(most), _CMP_NLE_UQ)
#define LOOKUP(table, index, a, b)                                                                                               \
    do {                                                                                                                         \
        uint64_t at[8] __attribute__((aligned(64)));                                                                             \
        _mm512_store_epi64(at, (__m512i)(index));                                                                                \
        __m512d even = _mm512_castpd256_pd512(PAIR_OF_ROWS(table, at, 0, 2)),                                                    \
                odd = _mm512_castpd256_pd512(PAIR_OF_ROWS(table, at, 1, 3));                                                     \
        even = _mm512_insertf64x4(even, PAIR_OF_ROWS(table, at, 4, 6), 1);                                                       \
        odd = _mm512_insertf64x4(odd, PAIR_OF_ROWS(table, at, 5, 7), 1);                                                         \
        *(a) = (VD)_mm512_unpacklo_pd(even, odd);                                                                                \
        *(b) = (VD)_mm512_unpackhi_pd(even, odd);                                                                                \
    } while (0)
#include "vector_loops.h"
#undef NAME
#endif

#if defined(__aarch64__)
#define NAME(f) f##_neon
#define SET neon
#define TARGET
#define LANES 2
#define MAX(x, y) ((VD)vbslq_f64(vcgtq_f64((float64x2_t)(x), (float64x2_t)(y)), (float64x2_t)(x), (float64x2_t)(y)))
#define FNMA(a, b, c) ((VD)vfmsq_f64((float64x2_t)(c), (float64x2_t)(a), vdupq_n_f64(b)))
/* As two_prod, where nothing underflows: the error of a product is exact either way. */
#define PRODUCT(a, b, p, e) \
    (*(p) = (a) * (b), *(e) = (VD)vfmaq_f64((float64x2_t)(-*(p)), (float64x2_t)(a), (float64x2_t)(b)))
#define LOOKUP(table, index, a, b)                                                                              \
    do {                                                                                                        \
        float64x2_t row0 = vld1q_f64((table)[(index)[0]]), row1 = vld1q_f64((table)[(index)[1]]);               \
        *(a) = (VD)vzip1q_f64(row0, row1);                                                                      \
        *(b) = (VD)vzip2q_f64(row0, row1);                                                                      \
    } while (0)
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
#if defined(__aarch64__)
    supported[n_supported++] = &set_neon;
#endif
    supported[n_supported++] = &set_portable;
    loops = supported[0];
}
