/* Values and states by group: every row has the code of its group. */

/* The state of a group while rows are added: one cache line. */
typedef struct __attribute__((aligned(64))) {
    int64_t low[3];  /* limb = high 2^62 + low */
    double cap;      /* max, or NaN where rows need the general path: max is infinite, NaN or beyond FAR */
    double max;
    int64_t count;
    int32_t high[3]; /* enough for 2^43 rows of one group, as a limb is at most 2^49 */
    int32_t base;
} group_slot;

#define PREFETCH_ROWS 64   /* rows whose slots are fetched before they are visited */
#define PREFETCH_STATES 16 /* rows ahead where each is a merge or a product, which takes longer */
#define VANISHING_BASE 200 /* on the grid of this base every limb of e^0 is 0: half its last quantum is 2^99 */

static void slot_from_state(group_slot *slot, const state *s) {
    int near = fabs(s->max) < FAR - SPAN;
    slot->cap = near ? s->max : NAN;
    slot->max = s->max;
    slot->count = s->count;
    slot->base = near ? (int32_t)s->base : INT32_MIN;
    for (int j = 0; j < 3; j++) {
        slot->high[j] = (int32_t)(s->limb[j] >> 62);
        slot->low[j] = (int64_t)(s->limb[j] & (((wide)1 << 62) - 1));
    }
}

static state state_from_slot(const group_slot *slot) {
    state s = {slot->count, slot->max, slot->base, {0, 0, 0}};
    if (slot->cap != slot->cap) s.base = is_near(slot->max) ? base_of(slot->max) : NO_BASE;
    for (int j = 0; j < 3; j++) s.limb[j] = slot->high[j] * ((wide)1 << 62) + slot->low[j];
    return s;
}

/* Counts rows; every FLUSH of them the low parts are emptied into the high ones. */
INLINE void count_rows(group_slot *slot, int64_t n) {
    int64_t count = slot->count + n;
    if (__builtin_expect((count ^ slot->count) >= FLUSH, 0))
        for (int j = 0; j < 3; j++) {
            int64_t carry = slot->low[j] >> 62;
            slot->high[j] += (int32_t)carry;
            slot->low[j] -= (int64_t)((uint64_t)carry << 62);
        }
    slot->count = count;
}

/* Takes x as the maximum of its group if it is, whatever x and the maximum are. */
static __attribute__((noinline)) void raise_any_slot(group_slot *slot, double x) {
    if (slot->max != slot->max || x <= slot->max) return;
    state s = state_from_slot(slot);
    if (x != x)
        set_nan(&s);
    else
        raise_max(&s, x);
    slot_from_state(slot, &s);
}

/* Takes x as the maximum of its group if it is: at once where x stays on the grid or near it. */
INLINE void raise_slot(group_slot *slot, double x) {
    if (__builtin_expect(x <= slot->cap, 1)) return;
    if (!(fabs(x) < FAR - SPAN) || (slot->cap != slot->cap && slot->max != -INFINITY)) {
        raise_any_slot(slot, x);
        return;
    }
    double u = x * STEPS_PER_UNIT + ROUND;
    int64_t k = (int64_t)(bits_of(u) - ROUND_BITS) >> 7;
    if (k - slot->base > LIMB_BITS - 2) {
        int64_t base = base_of_exponent(k), down = (base - slot->base) / LIMB_BITS;
        for (int j = 2; j >= 0; j--) {
            slot->low[j] = j >= down ? slot->low[j - down] : 0;
            slot->high[j] = j >= down ? slot->high[j - down] : 0;
        }
        slot->base = (int32_t)base;
    }
    slot->max = slot->cap = x + 0.0;
}

/* Adds rows of one group, by way of its state. */
static __attribute__((noinline)) void add_rows_to_slot(group_slot *slot, const double *x, size_t n) {
    state s = state_from_slot(slot);
    add_all(&s, x, n);
    slot_from_state(slot, &s);
}

/* The maximum of a run, or NaN. */
INLINE double run_max(const double *x, size_t n) {
    if (n >= 32) return loops->block_max(x, n); /* which has 32 lanes */
    double max = -INFINITY;
    int bad = 0;
    for (size_t i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
        bad |= x[i] != x[i];
    }
    return bad ? NAN : max;
}

/* Rows that are added together: x, at least max - SPAN; the grid of its group; its limbs; where each run starts. */
typedef struct {
    double x[ROWS];
    uint64_t bias[ROWS];
    int64_t limb[3][ROWS];
    uint16_t start[ROWS + 1];
} grouped_batch;

/* Adds n <= ROWS rows, of left that follow in memory. Rows of one code in a row are one run; with single, every row is. */
INLINE void add_runs(group_slot *slots, const int32_t *codes, const double *x, size_t n, size_t left, grouped_batch *batch,
                     size_t runs, int single) {
#define START(r) (single ? (r) : batch->start[r])
    for (size_t r = 0; r < runs; r++) {
        size_t j = START(r);
        __builtin_prefetch(&slots[codes[j + PREFETCH_ROWS < left ? j + PREFETCH_ROWS : j]], 1);
        raise_slot(&slots[codes[j]], single ? x[j] : run_max(x + j, START(r + 1) - j));
    }
    /* Only now is the maximum of every slot, and with it the grid, final for this batch. */
    for (size_t r = 0; r < runs; r++) {
        size_t j = START(r), end = START(r + 1);
        group_slot *slot = &slots[codes[j]];
        double floor = slot->cap - SPAN;
        uint64_t bias = bias_of(slot->base);
        if (__builtin_expect(floor == floor, 1)) {
            count_rows(slot, (int64_t)(end - j));
            for (; j < end; j++) batch->x[j] = x[j] > floor ? x[j] : floor, batch->bias[j] = bias;
        } else {
            add_rows_to_slot(slot, x + j, end - j);
            for (; j < end; j++) batch->x[j] = 0.0, batch->bias[j] = bias_of(VANISHING_BASE);
        }
    }
    for (size_t j = n; j % 8; j++) batch->x[j] = 0.0, batch->bias[j] = 0;
    loops->cut_each(batch->x, batch->bias, LANES_FOR(n), batch->limb[0], batch->limb[1], batch->limb[2]);
    for (size_t r = 0; r < runs; r++) {
        size_t j = START(r), end = START(r + 1);
        __builtin_prefetch(x + ROWS + j);
        __builtin_prefetch(codes + ROWS + j);
        int64_t sum[3] = {0, 0, 0};
        group_slot *slot = &slots[codes[j]];
        for (; j < end; j++)
            for (int i = 0; i < 3; i++) sum[i] += batch->limb[i][j];
        for (int i = 0; i < 3; i++) slot->low[i] += sum[i];
    }
#undef START
}

/* Adds n <= ROWS rows, of left that follow in memory, to the slots of their codes. */
static void add_rows(group_slot *slots, const int32_t *codes, const double *x, size_t n, size_t left, grouped_batch *batch) {
    size_t runs = count_runs(codes, n);
    if (runs == 1) {
        add_rows_to_slot(&slots[codes[0]], x, n);
    } else if (runs * 3 > n) { /* runs so short that they do not pay */
        add_runs(slots, codes, x, n, left, batch, n, 1);
    } else {
        find_runs(codes, n, batch->start);
        add_runs(slots, codes, x, n, left, batch, runs, 0);
    }
}

static void store_slot(record *r, const group_slot *slot) {
    state s = state_from_slot(slot);
    store(r, &s);
}

/* In ascending codes a group is complete when the next one begins: only the slots of one batch are in use. */
static void group_ascending(record *records, size_t groups, const int32_t *codes, const double *x, size_t n,
                            const group_slot *empty, grouped_batch *batch) {
    group_slot slots[ROWS + 1];
    int32_t place[ROWS];
    size_t next = 0;
    slots[0] = *empty;
    for (size_t i = 0; i < n; i += ROWS) {
        size_t size = n - i < ROWS ? n - i : ROWS;
        int32_t last = 0;
        if (codes[i ? i - 1 : 0] == codes[i + size - 1]) { /* one long run */
            add_rows_to_slot(&slots[0], x + i, size);
            continue;
        }
        for (size_t j = 0; j < size; j++) {
            if (i + j > 0 && codes[i + j] != codes[i + j - 1]) slots[++last] = *empty;
            place[j] = last;
        }
        /* A batch that begins with a new group leaves the carried slot as it is. */
        add_rows(slots, place, x + i, size, size, batch);
        int32_t code = i ? codes[i - 1] : codes[0];
        for (size_t j = 0; j < size; j++) {
            if (codes[i + j] == code) continue;
            while (next < (size_t)code) store(records + next++, &EMPTY);
            store_slot(records + next++, &slots[place[j] - 1]);
            code = codes[i + j];
        }
        slots[0] = slots[last];
    }
    if (n) {
        while (next < (size_t)codes[n - 1]) store(records + next++, &EMPTY);
        store_slot(records + next++, &slots[0]);
    }
    while (next < groups) store(records + next++, &EMPTY);
}

/* Adds values to the slots of their codes. */
static void add_values(group_slot *slots, const int32_t *codes, const double *x, size_t n) {
    grouped_batch batch;
    for (size_t i = 0; i < n; i += ROWS) add_rows(slots, codes + i, x + i, n - i < ROWS ? n - i : ROWS, n - i, &batch);
}

static int group_values(record *records, size_t groups, const int32_t *codes, const void *values, size_t n) {
    const double *x = values;
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    group_slot empty;
    slot_from_state(&empty, &EMPTY);
    grouped_batch batch;
    if (codes_ascend(codes, n)) {
        group_ascending(records, groups, codes, x, n, &empty, &batch);
        return DONE;
    }
    group_slot *slots = allocate(groups * sizeof(group_slot));
    if (!slots) return NO_MEMORY;
    for (size_t i = 0; i < groups; i++) slots[i] = empty;
    add_values(slots, codes, x, n);
    for (size_t i = 0; i < groups; i++) store_slot(records + i, slots + i);
    free(slots);
    return DONE;
}

/* Merges states into the records of their codes. */
static int add_records(record *records, const int32_t *codes, const record *states, size_t n) {
    for (size_t i = 0; i < n; i++) {
        record *r = records + codes[i];
        __builtin_prefetch(records + codes[i + PREFETCH_STATES < n ? i + PREFETCH_STATES : i], 1);
        state s = load(r);
        if (merge(&s, load(states + i))) return COUNT_OVERFLOW;
        store(r, &s);
    }
    return DONE;
}

/* Merges states into the slots of their codes. Counts are limited to 2^42, to what a slot can
   contain. */
static int add_records_to_slots(group_slot *slots, const int32_t *codes, const record *states, size_t n) {
    for (size_t i = 0; i < n; i++) {
        group_slot *slot = slots + codes[i];
        state s = state_from_slot(slot);
        if (merge(&s, load(states + i)) || s.count > (1LL << 42)) return COUNT_OVERFLOW;
        slot_from_state(slot, &s);
    }
    return DONE;
}

static int merge_groups(record *records, size_t groups, const int32_t *codes, const void *others, size_t n) {
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    for (size_t i = 0; i < groups; i++) store(records + i, &EMPTY);
    return add_records(records, codes, others, n);
}
