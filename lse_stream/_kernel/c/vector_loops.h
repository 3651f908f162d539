/* The loops over values, written once over LANES doubles and included once per instruction set by instruction_sets.h, which sets
   NAME(f), TARGET, LANES and, for more than one lane, MAX, FNMA and LOOKUP. Plain vector types do the rest: gcc and clang
   lower them to the target's instructions. Every lane computes the same IEEE operations, so all sets give the same bits.

   The exponential is that of P. T. P. Tang, "Table-driven implementation of the exponential function in IEEE floating-point
   arithmetic", ACM Trans. Math. Software 15 (1989), with a table of pairs and a reduction that is exact but for its tail. */

#if LANES == 1
#define VD double
#define VU uint64_t
#define VI int64_t
#define BITS(d) bits_of(d)
#define FLOAT(u) double_of(u)
#define MASK(condition) (0 - (uint64_t)(condition))
#define LOADD(p) (*(p))
#define LOADU(p) (*(p))
#define STORED(p, v) (*(p) = (v))
#define STOREU(p, v) (*(p) = (v))
#define MAX(x, y) ((x) > (y) ? (x) : (y))
#define FNMA(a, b, c) ((c) - (a) * (b))
#define LOOKUP(table, index, a, b) (*(a) = (table)[index][0], *(b) = (table)[index][1])
#else
typedef double NAME(vd) __attribute__((vector_size(8 * LANES)));
typedef uint64_t NAME(vu) __attribute__((vector_size(8 * LANES)));
typedef int64_t NAME(vi) __attribute__((vector_size(8 * LANES)));
typedef double NAME(vd_anywhere) __attribute__((vector_size(8 * LANES), aligned(8), may_alias));
typedef uint64_t NAME(vu_anywhere) __attribute__((vector_size(8 * LANES), aligned(8), may_alias));
#define VD NAME(vd)
#define VU NAME(vu)
#define VI NAME(vi)
#define BITS(d) ((VU)(d))
#define FLOAT(u) ((VD)(u))
#define MASK(condition) ((VU)(condition))
#define LOADD(p) (*(const NAME(vd_anywhere) *)(p))
#define LOADU(p) (*(const NAME(vu_anywhere) *)(p))
#define STORED(p, v) (*(NAME(vd_anywhere) *)(p) = (v))
#define STOREU(p, v) (*(NAME(vu_anywhere) *)(p) = (v))
#endif
#define SPLAT(scalar) ((VD){0} + (scalar))
#define ABS(x) FLOAT(BITS(x) & 0x7fffffffffffffffULL)
#define SELECT(mask, a, b) FLOAT((BITS(a) & (mask)) | (BITS(b) & ~(mask)))

#ifndef FLAGS
#define FLAGS VU
#define NO_FLAGS ((VU){0})
#define UNLESS_AT_MOST(v, most) (~MASK((v) <= (most)))
TARGET INLINE int NAME(any)(VU flags) {
    uint64_t lanes[LANES], any = 0;
    STOREU(lanes, flags);
    for (size_t j = 0; j < LANES; j++) any |= lanes[j];
    return any != 0;
}
#else
TARGET INLINE int NAME(any)(FLAGS flags) { return flags != 0; }
#endif

/* Error-free transformations: Knuth, TAOCP 4.2.2; Dekker, Numer. Math. 18 (1971). No fused operation: not every target
   has one. */
TARGET INLINE void NAME(two_sum)(VD a, VD b, VD *s, VD *e) {
    VD t = a + b, z = t - a;
    *e = (a - (t - z)) + (b - z);
    *s = t;
}

TARGET INLINE void NAME(quick_two_sum)(VD a, VD b, VD *s, VD *e) {
    VD t = a + b;
    *e = b - (t - a);
    *s = t;
}

TARGET INLINE void NAME(two_prod)(VD a, VD b, VD *p, VD *e) {
    VD ca = 134217729.0 * a, ah = ca - (ca - a), al = a - ah;
    VD cb = 134217729.0 * b, bh = cb - (cb - b), bl = b - bh;
    VD q = a * b;
    *e = ((ah * bh - q) + ah * bl + al * bh) + al * bl;
    *p = q;
}

/* e^(x + below) = 2^(steps >> 7) 2^(turns << 22) (high + low) for |x| < 2^60; or, without far, for |x| < 2^23 and below = 0,
   with turns = 0. */
TARGET INLINE void NAME(term)(VD x, VD below, int far, VD *high, VD *low, VU *steps, VU *turns) {
    VD tail = x;
    *turns = (VU){0};
    if (far) {
        VD k = (x * FAR_PER_UNIT + ROUND) - ROUND;
        k = FLOAT(BITS(k) & MASK(ABS(x) >= FAR));
        *turns = BITS(k + ROUND) - ROUND_BITS;
        k = k * 0x1p22;
        VD near = FNMA(k, FAR_3, FNMA(k, FAR_2, FNMA(k, FAR_1, x))); /* exact */
        NAME(two_sum)(near, below, &near, &below);
        k = k * FAR_4;
        x = near - k;
        tail = ((near - x) - k) + below;
    }
    VD u = x * STEPS_PER_UNIT + ROUND, k = u - ROUND;
    VD r = FNMA(k, STEP_2, FNMA(k, STEP_1, x)); /* exact, fused or not */
    k = k * STEP_3;
    if (far) k = k - tail;
    r = r - k;
    VD p = r + (r * r) * (0.5 + r * (E1 + r * (E2 + r * E3)));
    VU index = BITS(u) & 127;
    LOOKUP(EXP2_TABLE, index, high, low);
    *low = *low + *high * p;
    *steps = BITS(u) - ROUND_BITS;
}

/* 2^((steps >> 7) + (turns << 22) - base), where bias = 128 (1023 - base). What is cut off above the exponent is 0. */
TARGET INLINE VD NAME(power)(VU steps, VU turns, VU bias) {
    return FLOAT(((steps + (turns << 29) + bias) << 45) & 0x7ff0000000000000ULL);
}

/* Cuts high + low into the three limbs, left as bit patterns of doubles: subtract LIMB_PATTERN_i. */
TARGET INLINE void NAME(cut)(VD high, VD low, VU *v0, VU *v1, VU *v2) {
    VD u = high + LIMB_ROUND_0, v = low + u;
    *v0 = BITS(v);
    high = high - (u - LIMB_ROUND_0), low = low - (v - u);
    u = high + LIMB_ROUND_1, v = low + u;
    *v1 = BITS(v);
    high = high - (u - LIMB_ROUND_1), low = low - (v - u);
    u = high + LIMB_ROUND_2, v = low + u;
    *v2 = BITS(v);
}

/* The three limbs of high + low as integers. */
TARGET INLINE void NAME(limbs)(VD high, VD low, VU limb[3]) {
    VU v0, v1, v2;
    NAME(cut)(high, low, &v0, &v1, &v2);
    limb[0] = v0 - LIMB_PATTERN_0, limb[1] = v1 - LIMB_PATTERN_1, limb[2] = v2 - LIMB_PATTERN_2;
}

/* The sums of n limbs each, from those of the lanes, which still include the patterns. */
TARGET INLINE void NAME(total)(VU a0, VU a1, VU a2, size_t n, int64_t out[3]) {
    uint64_t lanes[3][LANES], s[3] = {0, 0, 0};
    STOREU(lanes[0], a0), STOREU(lanes[1], a1), STOREU(lanes[2], a2);
    for (size_t j = 0; j < LANES; j++)
        for (int limb = 0; limb < 3; limb++) s[limb] += lanes[limb][j];
    out[0] = (int64_t)(s[0] - n * LIMB_PATTERN_0);
    out[1] = (int64_t)(s[1] - n * LIMB_PATTERN_1);
    out[2] = (int64_t)(s[2] - n * LIMB_PATTERN_2);
}

/* Adds the limbs of n <= FLUSH values. With tied, those that equal the maximum are counted instead. Returns whether all others are
   at most as large as they may be, and none is NaN: else what was written is void. With known, that is known. */
TARGET INLINE int NAME(sum)(const double *x, size_t n, const limits *at, int far, int tied, int known, int64_t out[3], int64_t *ties) {
    VU a0 = (VU){0}, a1 = a0, a2 = a0, bias = a0 + bias_of(at->base), equal = a0;
    VD least = SPLAT(at->floor), most = SPLAT(at->most), max = SPLAT(at->max);
    FLAGS bad = NO_FLAGS;
    double rest[LANES];
    size_t i = 0;
    for (; i < n; i += LANES) {
        const double *from = x + i;
        if (i + LANES > n) {
            for (size_t j = 0; j < LANES; j++) rest[j] = i + j < n ? x[i + j] : -INFINITY;
            from = rest;
        }
        __builtin_prefetch((const char *)from + 8 * BLOCK);
        VD v = LOADD(from), high, low;
        VU steps, turns, v0, v1, v2;
        if (tied) {
            VU tie = MASK(v == max);
            equal -= tie;
            v = known ? FLOAT(BITS(v) | tie) : SELECT(tie, SPLAT(-INFINITY), v); /* NaN is quicker, and no maximum */
        }
        if (!known) bad |= UNLESS_AT_MOST(v, most);
        NAME(term)(MAX(v, least), SPLAT(0.0), far, &high, &low, &steps, &turns);
        VD scale = NAME(power)(steps, turns, bias);
        NAME(cut)(high * scale, low * scale, &v0, &v1, &v2);
        a0 += v0, a1 += v1, a2 += v2;
    }
    uint64_t equals[LANES], count = 0;
    STOREU(equals, equal);
    for (size_t j = 0; j < LANES; j++) count += equals[j];
    *ties = (int64_t)count;
    NAME(total)(a0, a1, a2, i, out);
    return !NAME(any)(bad);
}

TARGET static int NAME(sum_near)(const double *x, size_t n, const limits *at, int tied, int64_t out[3], int64_t *ties) {
    return tied ? NAME(sum)(x, n, at, 0, 1, 0, out, ties) : NAME(sum)(x, n, at, 0, 0, 0, out, ties);
}

TARGET static int NAME(sum_far)(const double *x, size_t n, const limits *at, int tied, int64_t out[3], int64_t *ties) {
    (void)tied;
    return NAME(sum)(x, n, at, 1, 1, 0, out, ties);
}

/* The limbs of each value on a grid of its own. n is a multiple of 8; |x| < 2^23. */
TARGET static void NAME(cut_each)(const double *x, const uint64_t *bias, size_t n, int64_t *h0, int64_t *h1, int64_t *h2) {
    for (size_t i = 0; i < n; i += LANES) {
        VD high, low;
        VU steps, turns, limb[3];
        NAME(term)(LOADD(x + i), SPLAT(0.0), 0, &high, &low, &steps, &turns);
        VD scale = NAME(power)(steps, turns, LOADU(bias + i));
        NAME(limbs)(high * scale, low * scale, limb);
        STOREU((uint64_t *)h0 + i, limb[0]);
        STOREU((uint64_t *)h1 + i, limb[1]);
        STOREU((uint64_t *)h2 + i, limb[2]);
    }
}

#ifndef PRODUCT
#define PRODUCT NAME(two_prod)
#endif

/* The exponent of a power of two above the magnitudes of values; NaN does not count. */
TARGET INLINE int NAME(exponent_above)(const double *x, size_t n) {
    VD max = SPLAT(0.0);
    double lanes[LANES], most = 0.0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) max = MAX(ABS(LOADD(x + i)), max);
    STORED(lanes, max);
    for (size_t j = 0; j < LANES; j++) most = lanes[j] > most ? lanes[j] : most;
    for (; i < n; i++) most = fabs(x[i]) > most ? fabs(x[i]) : most;
    return (int)(bits_of(most) >> 52) - 1022;
}

/* The sum of n <= ROWS values, or of their squares, in parts that are exact: what a value has on a coarse grid, below it on a
   fine one, and what a rounded square lacks, on two more. The grids are relative to a power of two above all magnitudes, and
   such that sums of so many doubles on them are exact. Returns whether that was all of every value; else the parts are void. */
TARGET INLINE int NAME(parts)(const double *x, size_t n, int squares, double part[PARTS]) {
    int top = NAME(exponent_above)(x, n) * (squares ? 2 : 1);
    if (top < -700 || top > 900) return 0; /* with room for the grids, and for squares that are far smaller */
    VD coarse = SPLAT(1.5 * power_of(top + 10)), fine = SPLAT(1.5 * power_of(top - 34));
    VD coarse_error = SPLAT(1.5 * power_of(top - 45)), fine_error = SPLAT(1.5 * power_of(top - 89));
    VD sum[PARTS] = {SPLAT(0.0), SPLAT(0.0), SPLAT(0.0), SPLAT(0.0)};
    VU rest = (VU){0};
    double last[LANES], lanes[LANES];
    uint64_t rests[LANES], any = 0;
    for (size_t i = 0; i < n; i += LANES) {
        const double *from = x + i;
        if (i + LANES > n) {
            for (size_t j = 0; j < LANES; j++) last[j] = i + j < n ? x[i + j] : 0.0;
            from = last;
        }
        VD value = LOADD(from), v = value, error = SPLAT(0.0), high;
        if (squares) {
            PRODUCT(value, value, &v, &error);
            rest |= MASK(v == 0.0) & ~MASK(value == 0.0);
        }
        high = (v + coarse) - coarse;
        sum[0] = sum[0] + high, v = v - high, sum[1] = sum[1] + v;
        rest |= ~MASK((v + fine) - fine == v); /* also of NaN */
        if (squares) {
            high = (error + coarse_error) - coarse_error;
            sum[2] = sum[2] + high, error = error - high, sum[3] = sum[3] + error;
            rest |= ~MASK((error + fine_error) - fine_error == error);
        }
    }
    for (int p = 0; p < PARTS; p++) {
        STORED(lanes, sum[p]);
        part[p] = 0.0;
        for (size_t j = 0; j < LANES; j++) part[p] = part[p] + lanes[j];
    }
    STOREU(rests, rest);
    for (size_t j = 0; j < LANES; j++) any |= rests[j];
    return !any;
}

TARGET static int NAME(sum_in_parts)(const double *x, size_t n, double part[PARTS]) { return NAME(parts)(x, n, 0, part); }

TARGET static int NAME(squares_in_parts)(const double *x, size_t n, double part[PARTS]) { return NAME(parts)(x, n, 1, part); }

/* log1p of a double-double y > -1: 1 + y = 2^e (1 + w) / c with 128 c an integer in [64, 128], and a series in w. */
TARGET INLINE void NAME(log1p_pair)(VD yh, VD yl, VD *oh, VD *ol) {
    VU small = MASK(ABS(yh) < 0x1p-8);
    VD sh, sl, ph, pl, wh, wl, qh, ql, h, low, error;
    NAME(two_sum)(SPLAT(1.0), yh, &sh, &sl);
    NAME(quick_two_sum)(sh, sl + yl, &sh, &sl);
    VU exponent = BITS(sh) >> 52;
    VD scale = FLOAT((2046 - exponent) << 52);
    sh = sh * scale, sl = sl * scale;
    VD centre = 128.0 / sh + ROUND;
    VU entry = (BITS(centre) & 255) - 64;
    entry = (entry & ~small) | (64 & small);
    centre = (centre - ROUND) * 0x1p-7;
    PRODUCT(sh, centre, &ph, &pl);
    NAME(quick_two_sum)(ph - 1.0, pl + sl * centre, &wh, &wl);
    wh = SELECT(small, yh, wh);
    wl = SELECT(small, yl, wl);
    VD e = FLOAT(BITS(FLOAT(exponent + ROUND_BITS) - (ROUND + 1023.0)) & ~small);
    /* Where the square adds nothing it would underflow. */
    VD factor = FLOAT(BITS(wh) & MASK(ABS(wh) >= 0x1p-200));
    PRODUCT(factor, factor, &qh, &ql);
    ql = ql + 2.0 * (factor * wl);
    VD series = SPLAT(L13);
#define STEP(coefficient) series = series * wh + coefficient;
    STEP(L12) STEP(L11) STEP(L10) STEP(L9) STEP(L8) STEP(L7) STEP(L6) STEP(L5) STEP(L4) STEP(L3)
#undef STEP
    VD tail = qh * wh * series;
    NAME(two_sum)(wh, -0.5 * qh, &h, &low);
    low = low + (wl - 0.5 * ql) + tail;
    VD log_high, log_low;
    LOOKUP(NEG_LOG_TABLE, entry, &log_high, &log_low);
    NAME(two_sum)(log_high, h, &h, &error);
    low = low + (error + log_low);
    NAME(two_sum)(e * LN2_HIGH, h, &h, &error);
    low = low + (error + e * LN2_LOW);
    NAME(quick_two_sum)(h, low, oh, ol);
}

/* max + log1p(others + rest / term), rounded once: others, at least 0, is a pair; the rest is the sum of the digits, smallest
   first, on the grid of a base; term that of the max, a pair times 2^exponent. */
TARGET INLINE VD NAME(finish_one)(VD max, VD others, VD others_low, const VD digits[5], VU base, VD term, VD term_low, VU exponent) {
    VD s = digits[0], e = SPLAT(0.0), error, t, tl, qh, ql, ph, pl, gh, gl, r;
    for (int d = 1; d < 5; d++) { /* digits do not overlap: a larger one is 0, or above all that came before */
        NAME(quick_two_sum)(digits[d], s, &s, &error);
        NAME(quick_two_sum)(s, error + e, &s, &e);
    }
    NAME(quick_two_sum)(term, term_low, &t, &tl);
    qh = s / t;
    PRODUCT(qh, t, &ph, &pl);
    ql = ((((s - ph) - pl) + e) - qh * tl) / t;
    NAME(quick_two_sum)(qh, ql, &qh, &ql);
    VU shift = (base - exponent) & MASK(s != 0.0), under = MASK((VI)shift < LEAST_SHIFT); /* without a rest no base fits */
    shift = (shift & ~under) | ((uint64_t)LEAST_SHIFT & under);
    VU half = ((shift - (uint64_t)LEAST_SHIFT) >> 1) + (uint64_t)(LEAST_SHIFT / 2); /* what is shifted is not negative */
    VD one = FLOAT((half + 1023) << 52), other = FLOAT((shift - half + 1023) << 52);
    qh = qh * one * other, ql = ql * one * other;
    ql = FLOAT(BITS(ql) & MASK(qh >= 0x1p-900)); /* below, qh alone is rounded once, and ql would be of few bits */
    NAME(two_sum)(others, qh, &qh, &error);
    NAME(quick_two_sum)(qh, error + (ql + others_low), &qh, &ql);
    NAME(log1p_pair)(qh, ql, &gh, &gl);
    NAME(two_sum)(max, gh, &r, &error);
    return r + (error + gl);
}

/* The values of n sums, a multiple of 8. */
TARGET static void NAME(finish)(const totals *t, size_t n, double *out) {
    for (size_t i = 0; i < n; i += LANES) {
        VD d[5], max = LOADD(t->max + i), high, low;
        VU steps, turns;
        for (int j = 0; j < 5; j++) d[j] = LOADD(t->digits[j] + i);
        NAME(term)(LOADD(t->near + i), SPLAT(0.0), 1, &high, &low, &steps, &turns);
        VU exponent = ((steps + (1ULL << 50)) >> 7) - (1ULL << 43) + (turns << 22); /* an arithmetic shift */
        VU base = LOADU((const uint64_t *)t->base + i);
        STORED(out + i, NAME(finish_one)(max, LOADD(t->others + i), LOADD(t->others_low + i), d, base, high, low, exponent));
    }
}

#if LANES == 1
#define LANE_OF(p, j) ((p)[0][j])
#elif LANES == 2
#define LANE_OF(p, j) ((VD){(p)[0][j], (p)[1][j]})
#elif LANES == 4
#define LANE_OF(p, j) ((VD){(p)[0][j], (p)[1][j], (p)[2][j], (p)[3][j]})
#else
#define LANE_OF(p, j) ((VD){(p)[0][j], (p)[1][j], (p)[2][j], (p)[3][j], (p)[4][j], (p)[5][j], (p)[6][j], (p)[7][j]})
#endif

/* The low 50 bits of an integer as a double, and the integer shifted right by as many, with its sign. */
#define DIGIT(u) (FLOAT(((u) & ((1ULL << LIMB_BITS) - 1)) | 0x4330000000000000ULL) - 0x1p52)
#define CARRY(u) ((((u) + (1ULL << 63)) >> LIMB_BITS) - (1ULL << (63 - LIMB_BITS)))

/* The largest value below a number; -inf where there is none. */
TARGET static double NAME(max_below)(const double *x, size_t n, double top) {
    VD max[2] = {SPLAT(-INFINITY), SPLAT(-INFINITY)};
    size_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES)
        for (int j = 0; j < 2; j++) {
            VD v = LOADD(x + i + j * LANES);
            max[j] = MAX(FLOAT(BITS(v) | ~MASK(v < top)), max[j]); /* NaN is no maximum */
        }
    double lanes[LANES], below = -INFINITY;
    STORED(lanes, MAX(max[0], max[1]));
    for (size_t l = 0; l < LANES; l++) below = lanes[l] > below ? lanes[l] : below;
    for (; i < n; i++) below = x[i] < top && x[i] > below ? x[i] : below;
    return below;
}

/* The maximum of a row, or NaN. */
TARGET INLINE double NAME(max_along)(const double *x, size_t columns) {
    VD max[2] = {SPLAT(-INFINITY), SPLAT(-INFINITY)};
    VU bad = (VU){0};
    size_t j = 0;
    for (; j + 2 * LANES <= columns; j += 2 * LANES) {
        VD v = LOADD(x + j), w = LOADD(x + j + LANES);
        max[0] = MAX(v, max[0]), max[1] = MAX(w, max[1]);
        bad |= ~MASK(v == v) | ~MASK(w == w);
    }
    double lanes[LANES], top = -INFINITY;
    uint64_t bads[LANES], any = 0;
    STORED(lanes, MAX(max[0], max[1])), STOREU(bads, bad);
    for (size_t l = 0; l < LANES; l++) top = lanes[l] > top ? lanes[l] : top, any |= bads[l];
    for (; j < columns; j++) top = x[j] > top ? x[j] : top, any |= x[j] != x[j];
    return any ? NAN : top;
}

/* Of LANES rows, each column in a vector: their maxima, or NaN; the largest values below these, -inf where there is none; and how
   many equal the maxima. */
TARGET INLINE VD NAME(max_across)(const VD *column, size_t columns) {
    VD max = SPLAT(-INFINITY);
    VU bad = (VU){0};
    for (size_t j = 0; j < columns; j++) {
        max = MAX(column[j], max);
        bad |= ~MASK(column[j] == column[j]);
    }
    return FLOAT(BITS(max) | bad);
}

TARGET INLINE VD NAME(second_across)(const VD *column, size_t columns, VD max, VU *ties) {
    VD second = SPLAT(-INFINITY);
    *ties = (VU){0};
    for (size_t j = 0; j < columns; j++) {
        VU tie = MASK(column[j] == max);
        *ties -= tie;
        second = MAX(FLOAT(BITS(column[j]) | tie), second);
    }
    return second;
}

/* The log-sum-exp of each of n rows of at most FLUSH columns: the same operations in the same order as by way of states,
   for a few rows at a time. Short rows have a lane each. Where a maximum or a second is not within FAR - SPAN, it is NaN: for
   the caller to do over. */
TARGET static void NAME(rows)(const double *x, size_t n, size_t columns, double *out) {
    double max[ROWS_TOGETHER], second[ROWS_TOGETHER], values[ROWS_TOGETHER];
    uint64_t base[ROWS_TOGETHER], sums[3][ROWS_TOGETHER], ties[ROWS_TOGETHER];
    /* So many rows at a time that they stay in the first-level cache, or nearly. */
    size_t few = columns <= 64 ? ROWS_TOGETHER : columns >= 512 ? 8 : 4096 / columns / 8 * 8;
    for (size_t i = 0; i < n; i += few) {
        size_t size = n - i < few ? n - i : few;
        const double *row[ROWS_TOGETHER];
        for (size_t r = 0; r < few; r++) row[r] = x + (r < size ? i + r : n - 1) * columns;
        int across = columns < LONG_ROW;
        for (size_t r = 0; !across && r < few; r++) {
            max[r] = r < size ? NAME(max_along)(row[r], columns) : 0.0;
            second[r] = r < size ? NAME(max_below)(row[r], columns, max[r]) : -INFINITY;
        }
        for (size_t r = 0; r < few; r += LANES) {
            VU of_ties = (VU){0}, steps, turns, v0, v1, v2;
            VD top = LOADD(max + r), next = LOADD(second + r), column[LONG_ROW];
            if (across) {
                for (size_t j = 0; j < columns; j++) column[j] = LANE_OF(row + r, j);
                top = NAME(max_across)(column, columns);
                next = NAME(second_across)(column, columns, top, &of_ties);
            }
            VU alone = MASK(next == -INFINITY), good = MASK(ABS(top) < FAR - SPAN) & (MASK(ABS(next) < FAR - SPAN) | alone);
            top = FLOAT(BITS(top) & good) + 0.0;
            next = FLOAT(BITS(next) & good & ~alone);
            /* floor((k + 1) / 50), as the nearest integer to (k + 1 - 24.5) / 50 */
            VU k = BITS(next * STEPS_PER_UNIT + ROUND) - ROUND_BITS;
            k = ((k + (1ULL << 50)) >> 7) - (1ULL << 43);
            VD quotient = ((FLOAT(k + ROUND_BITS) - ROUND) - 23.5) * (1.0 / LIMB_BITS) + ROUND;
            VU of_base = (BITS(quotient) - ROUND_BITS) * LIMB_BITS;
            of_base = (of_base & ~alone) | (VANISHING_BASE & alone);
            VU a0 = (VU){0}, a1 = a0, a2 = a0, bias = (1023 - of_base) << 7;
            VD least = SELECT(alone, SPLAT(0.0), next - SPAN), high, low;
            for (size_t j = 0; across && j < columns; j++) {
                VD v = FLOAT(BITS(column[j]) | MASK(column[j] == top)); /* NaN is no maximum */
                NAME(term)(MAX(v, least), SPLAT(0.0), 0, &high, &low, &steps, &turns);
                VD scale = NAME(power)(steps, turns, bias);
                NAME(cut)(high * scale, low * scale, &v0, &v1, &v2);
                a0 += v0, a1 += v1, a2 += v2;
            }
            if (across) a0 -= columns * LIMB_PATTERN_0, a1 -= columns * LIMB_PATTERN_1, a2 -= columns * LIMB_PATTERN_2;
            STORED(max + r, FLOAT(BITS(top) | ~good));
            STORED(second + r, least);
            STOREU(base + r, of_base), STOREU(ties + r, of_ties);
            STOREU(sums[0] + r, a0), STOREU(sums[1] + r, a1), STOREU(sums[2] + r, a2);
        }
        for (size_t r = 0; !across && r < size; r++) {
            int64_t sum[3], of_ties;
            if (max[r] != max[r]) continue;
            limits at = {max[r], max[r], second[r], (int64_t)base[r]};
            NAME(sum)(row[r], columns, &at, 0, 1, 1, sum, &of_ties);
            for (int l = 0; l < 3; l++) sums[l][r] = (uint64_t)sum[l];
            ties[r] = (uint64_t)of_ties;
        }
        for (size_t r = 0; r < few; r += LANES) {
            VD digits[5], top = LOADD(max + r), high, low;
            /* What is not known, and rows beyond the last, count as a single 0. */
            VU count = LOADU(ties + r), known = MASK(top == top) & MASK(count != 0), steps, turns;
            VU a0 = LOADU(sums[0] + r) & known, a1 = LOADU(sums[1] + r) & known, a2 = LOADU(sums[2] + r) & known;
            digits[0] = DIGIT(a2) * 0x1p-100;
            a1 += CARRY(a2);
            digits[1] = DIGIT(a1) * 0x1p-50;
            a0 += CARRY(a1);
            digits[2] = DIGIT(a0);
            digits[3] = DIGIT(CARRY(a0)) * 0x1p50;
            digits[4] = SPLAT(0.0);
            top = FLOAT(BITS(top) & known);
            NAME(term)(top, SPLAT(0.0), 0, &high, &low, &steps, &turns);
            VU exponent = ((steps + (1ULL << 50)) >> 7) - (1ULL << 43);
            VD others = FLOAT(BITS(FLOAT(count + ROUND_BITS) - ROUND - 1.0) & known);
            VD value = NAME(finish_one)(top, others, SPLAT(0.0), digits, LOADU(base + r), high, low, exponent);
            STORED(values + r, FLOAT(BITS(value) | ~known));
        }
        memcpy(out + i, values, size * sizeof *out);
    }
}
#undef LANE_OF
#undef DIGIT
#undef CARRY

/* The products w e^(c x) of n <= ROWS rows, filled up with empty ones to a multiple of 8. Without general, c is 1 and
   weights are within 2^-400 and 2^400, so that they need not be taken apart. */
TARGET INLINE void NAME(weigh)(const double *x, const double *w, size_t n, scale c, int general, products *p) {
    VD max = SPLAT(-INFINITY);
    VU top = (VU){0} + (uint64_t)NO_EXPONENT, exceptional = (VU){0};
    double rest[2][LANES];
    for (size_t i = 0; i < (n + 7) / 8 * 8; i += LANES) {
        const double *xs = x + i, *ws = w + i;
        if (i + LANES > n) {
            for (size_t j = 0; j < LANES; j++) {
                rest[0][j] = i + j < n ? x[i + j] : 0.0;
                rest[1][j] = i + j < n ? w[i + j] : 0.0;
            }
            xs = rest[0], ws = rest[1];
        }
        __builtin_prefetch((const char *)xs + 8 * BLOCK);
        __builtin_prefetch((const char *)ws + 8 * BLOCK);
        VD v = LOADD(xs), weight = LOADD(ws), y = v, below = SPLAT(0.0), high, low, ph, pl;
        VU steps, turns, exponent = (VU){0}, none = MASK(weight == 0.0) | MASK(v == -INFINITY);
        if (general) {
            NAME(two_prod)(v, SPLAT(c.high), &y, &below);
            below = below + v * c.low;
        }
        VU fits = MASK(ABS(y) < (general ? TOO_FAR : FAR));
        if (!general) fits &= MASK(ABS(weight) > 0x1p-400) & MASK(ABS(weight) < 0x1p400);
        exceptional |= ~fits & ~none, none |= ~fits;
        max = MAX(SELECT(none, SPLAT(-INFINITY), v), max);
        NAME(term)(FLOAT(BITS(y) & ~none), FLOAT(BITS(below) & ~none), general, &high, &low, &steps, &turns);
        if (general) { /* The weight is a number in [1, 2) times a power of 2: no product of it underflows. */
            VU tiny = MASK(ABS(weight) < 0x1p-1022);
            weight = SELECT(tiny, weight * 0x1p64, weight);
            exponent = ((BITS(weight) >> 52) & 0x7ff) - 1023 - (tiny & 64) + (turns << 22);
            weight = FLOAT((BITS(weight) & 0x800fffffffffffffULL) | 0x3ff0000000000000ULL);
        }
        weight = FLOAT(BITS(weight) & ~none);
        PRODUCT(weight, high, &ph, &pl);
        low = pl + weight * low;
        /* an arithmetic shift, of numbers well within 2^50 */
        exponent = exponent + ((steps + (1ULL << 50)) >> 7) - (1ULL << 43);
        VU upper = exponent + ((BITS(ph) >> 52) & 0x7ff) - 1023, raised = MASK((VI)upper > (VI)top) & ~none;
        top = (upper & raised) | (top & ~raised);
        STORED(p->high + i, ph);
        STORED(p->low + i, low);
        STOREU((uint64_t *)p->exponent + i, (exponent & ~none) | ((uint64_t)NO_EXPONENT & none));
    }
    double maxima[LANES];
    uint64_t tops[LANES], exceptions[LANES];
    STORED(maxima, max), STOREU(tops, top), STOREU(exceptions, exceptional);
    p->max = -INFINITY, p->top = NO_EXPONENT, p->exceptional = 0;
    for (size_t j = 0; j < LANES; j++) {
        p->max = maxima[j] > p->max ? maxima[j] : p->max;
        p->top = (int64_t)tops[j] > p->top ? (int64_t)tops[j] : p->top;
        p->exceptional |= exceptions[j] != 0;
    }
}

TARGET static void NAME(weigh_near)(const double *x, const double *w, size_t n, scale c, products *p) {
    NAME(weigh)(x, w, n, c, 0, p);
}

TARGET static void NAME(weigh_any)(const double *x, const double *w, size_t n, scale c, products *p) {
    NAME(weigh)(x, w, n, c, 1, p);
}

/* Adds the limbs of n products, whose largest belongs to the base or a lower one. */
TARGET static void NAME(sum_products)(const products *p, size_t n, int64_t base, int64_t out[3]) {
    VU a0 = (VU){0}, a1 = a0, a2 = a0;
    size_t i = 0;
    for (; i < n; i += LANES) {
        VU v0, v1, v2, biased = LOADU((const uint64_t *)p->exponent + i) + (uint64_t)(1023 - base);
        VD power = FLOAT((biased & MASK((VI)biased > 0)) << 52);
        NAME(cut)(LOADD(p->high + i) * power, LOADD(p->low + i) * power, &v0, &v1, &v2);
        a0 += v0, a1 += v1, a2 += v2;
    }
    NAME(total)(a0, a1, a2, i, out);
}

/* Writes n products times factors, rounded once but for 2^-50 of an ULP. */
TARGET static void NAME(multiply)(const products *p, const factors *f, size_t n, double *out) {
    double rest[LANES];
    for (size_t i = 0; i < n; i += LANES) {
        VD high = LOADD(p->high + i), low = LOADD(p->low + i), fh = LOADD(f->high + i), ph, pl;
        VU e = LOADU((const uint64_t *)p->exponent + i) + LOADU((const uint64_t *)f->exponent + i);
        VU under = MASK((VI)e < -MOST_EXPONENT), over = MASK((VI)e > MOST_EXPONENT);
        e = (e & ~under & ~over) | ((uint64_t)-MOST_EXPONENT & under) | (MOST_EXPONENT & over);
        VU half = ((e + MOST_EXPONENT) >> 1) - MOST_EXPONENT / 2; /* what is shifted is not negative */
        PRODUCT(high, fh, &ph, &pl);
        VD product = ph + (pl + (high * LOADD(f->low + i) + low * fh));
        product = product * FLOAT((half + 1023) << 52) * FLOAT((e - half + 1023) << 52);
        if (i + LANES <= n) {
            STORED(out + i, product);
        } else {
            STORED(rest, product);
            for (size_t j = i; j < n; j++) out[j] = rest[j - i];
        }
    }
}

/* A normal number > 0 as one in [1, 2) and a power of 2: the inverse of that, which is 0 for 2^1023, and its exponent. */
TARGET INLINE VU NAME(take_apart)(VD *v, VD *inverse) {
    VU exponent = BITS(*v) >> 52;
    *inverse = FLOAT((2046 - exponent) << 52);
    *v = FLOAT((BITS(*v) & 0xfffffffffffffULL) | 0x3ff0000000000000ULL);
    return exponent - 1023;
}

/* ln((high + low) 2^power); NaN unless |low| < high < inf. Near 1 nothing cancels. */
TARGET INLINE void NAME(log_of)(VD high, VD low, VU power, VD *log_high, VD *log_low) {
    VU known = MASK(ABS(low) < high) & MASK(high < INFINITY), tiny = MASK(high < 0x1p-1022) & known, raised;
    VD inverse, h, l, e, error;
    high = SELECT(known, high, SPLAT(1.0)), low = FLOAT(BITS(low) & known);
    high = SELECT(tiny, high * 0x1p54, high), low = SELECT(tiny, low * 0x1p54, low);
    power += NAME(take_apart)(&high, &inverse) - (tiny & 54);
    low = low * inverse;
    raised = MASK(high >= 1.5);
    high = SELECT(raised, high * 0.5, high), low = SELECT(raised, low * 0.5, low);
    e = FLOAT(power + (raised & 1) + ROUND_BITS) - ROUND;
    NAME(quick_two_sum)(high - 1.0, low, &high, &low);
    NAME(log1p_pair)(high, low, &h, &l);
    NAME(two_sum)(e * LN2_HIGH, h, &h, &error);
    NAME(quick_two_sum)(h, l + (error + e * LN2_LOW), &h, &l);
    *log_high = SELECT(known, h, FLOAT((VU){0} + 0x7ff8000000000000ULL));
    *log_low = FLOAT(BITS(l) & known);
}

/* Writes ln((high + low) 2^power) of n pairs, a multiple of 8, as pairs. */
TARGET static void NAME(logs)(const double *high, const double *low, int64_t power, size_t n, double *log_high,
                              double *log_low) {
    for (size_t i = 0; i < n; i += LANES) {
        VD h, l;
        NAME(log_of)(LOADD(high + i), LOADD(low + i), (VU){0} + (uint64_t)power, &h, &l);
        STORED(log_high + i, h);
        STORED(log_low + i, l);
    }
}

/* Writes the sum of ln(1 + slope x) over n values, for each of so many slopes, a multiple of 8. It is the logarithm of a
   product that is known to about n 2^-104, so that a sum near 0 is right to an ULP too. */
TARGET static void NAME(sum_logs)(const double *slope, size_t points, const double *x, size_t n, double *out) {
    for (size_t j = 0; j < points; j += LANES) {
        VD m = LOADD(slope + j), high = SPLAT(1.0), low = SPLAT(0.0), factor, error, inverse, product;
        VU power = (VU){0};
        for (size_t from = 0; from < n; from += FACTORS_TOGETHER) {
            size_t to = n - from < FACTORS_TOGETHER ? n : from + FACTORS_TOGETHER;
            for (size_t i = from; i < to; i++) {
                NAME(two_sum)(SPLAT(1.0), m * x[i], &factor, &error);
                power += NAME(take_apart)(&factor, &inverse);
                low = low * factor + high * (error * inverse);
                PRODUCT(high, factor, &product, &error);
                high = product, low = low + error;
            }
            NAME(quick_two_sum)(high, low, &high, &low);
            power += NAME(take_apart)(&high, &inverse);
            low = low * inverse;
        }
        NAME(log_of)(high, low, power, &high, &low);
        STORED(out + j, high);
    }
}

/* The maximum, or NaN if there is one. 32 independent lanes, or this costs more than the exponential. */
TARGET static double NAME(block_max)(const double *x, size_t n) {
    double lane[32], bad[32];
    for (int j = 0; j < 32; j++) lane[j] = -INFINITY, bad[j] = 0.0;
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (int j = 0; j < 32; j++) {
            double v = x[i + j];
            lane[j] = v > lane[j] ? v : lane[j];
            bad[j] = v == v ? bad[j] : 1.0;
        }
    double max = -INFINITY, any = 0.0;
    for (; i < n; i++) {
        max = x[i] > max ? x[i] : max;
        any = x[i] == x[i] ? any : 1.0;
    }
    for (int j = 0; j < 32; j++) {
        max = lane[j] > max ? lane[j] : max;
        any += bad[j];
    }
    return any == 0.0 ? max : NAN;
}

TARGET static void NAME(widen)(const float *restrict x, size_t n, double *restrict out) {
    for (size_t i = 0; i < n; i++) out[i] = x[i];
}

static const instruction_set NAME(set) = {
    STRING(SET), NAME(block_max), NAME(max_below), NAME(sum_near), NAME(sum_far), NAME(cut_each), NAME(finish), NAME(widen),
    NAME(weigh_near), NAME(weigh_any), NAME(sum_products), NAME(multiply), NAME(rows),
    NAME(logs), NAME(sum_in_parts), NAME(squares_in_parts), NAME(sum_logs),
};

#undef VD
#undef VU
#undef VI
#undef BITS
#undef FLOAT
#undef MASK
#undef LOADD
#undef LOADU
#undef STORED
#undef STOREU
#undef MAX
#undef FNMA
#undef PRODUCT
#undef FLAGS
#undef NO_FLAGS
#undef UNLESS_AT_MOST
#undef LOOKUP
#undef SPLAT
#undef ABS
#undef SELECT
#undef LANES
#undef TARGET
#undef SET
