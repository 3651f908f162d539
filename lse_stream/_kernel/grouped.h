/* Values and states by group: every row has the code of its group. */

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
    size_t runs = count_runs(codes, n);
    if (runs == 1) {
        add_rows_to_line(&lines[codes[0]], x, n);
    } else if (runs * 3 > n) {
        add_runs(lines, codes, x, n, left, p, n, 1);
    } else {
        find_runs(codes, n, p->start);
        add_runs(lines, codes, x, n, left, p, runs, 0);
    }
}

static void store_line(record *r, const line *l) {
    state s = state_from_line(l);
    store(r, &s);
}

/* In ascending codes a group is complete when the next one begins: only the lines of one pass are in use. */
static void group_ascending(record *records, size_t groups, const int32_t *codes, const double *x, size_t n,
                            const line *empty, pass *p) {
    line lines[ROWS + 1];
    int32_t place[ROWS];
    size_t next = 0;
    lines[0] = *empty;
    for (size_t i = 0; i < n; i += ROWS) {
        size_t size = n - i < ROWS ? n - i : ROWS;
        int32_t last = 0;
        if (codes[i ? i - 1 : 0] == codes[i + size - 1]) { /* one long run */
            add_rows_to_line(&lines[0], x + i, size);
            continue;
        }
        for (size_t j = 0; j < size; j++) {
            if (i + j > 0 && codes[i + j] != codes[i + j - 1]) lines[++last] = *empty;
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
        group_ascending(records, groups, codes, x, n, &empty, &p);
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
