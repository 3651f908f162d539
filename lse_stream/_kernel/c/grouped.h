/* Values and states by group: every row has the code of its group. */

/* The state of a group while rows are added: one cache line. The max and the second are within FAR - SPAN, or there is none
   yet; else the base is GENERAL, and it goes the way of states. */
typedef struct __attribute__((aligned(64))) {
    int64_t low[3]; /* limb = high 2^62 + low */
    double max, second;
    int32_t high[3];
    uint32_t ties, others; /* count = ties + others */
    int32_t base;
} group_slot;

#define GENERAL INT32_MIN
#define NO_REST (INT32_MIN + 1) /* the base where there is no second */
#define SHORT_RUN 6             /* rows of one code in a row, up to which each is looked at alone */
#define LONG_RUN 32             /* from which on they are worth a state of their own */
#define PREFETCH_ROWS 64   /* rows whose slots are fetched before they are visited */
#define PREFETCH_STATES 16 /* rows ahead where each is a merge or a product, which takes longer */
#define MOST_OF_SLOT ((int64_t)1 << 30) /* terms of a state that fits a slot; so many rows later they are still below 2^32 */

static const group_slot EMPTY_SLOT = {{0, 0, 0}, -INFINITY, -INFINITY, {0, 0, 0}, 0, 0, NO_REST};

INLINE int is_simple(double x) { return fabs(x) < FAR - SPAN; }

static void slot_from_state(group_slot *slot, const state *s) {
    slot->max = s->max, slot->second = s->second;
    slot->ties = (uint32_t)s->ties, slot->others = (uint32_t)(s->count - s->ties);
    slot->base = s->second == -INFINITY && (is_simple(s->max) || s->max == -INFINITY) ? NO_REST
                 : is_simple(s->max) && is_simple(s->second)                          ? (int32_t)s->base
                                                                                      : GENERAL;
    for (int j = 0; j < 3; j++) {
        slot->high[j] = (int32_t)(s->limb[j] >> 62);
        slot->low[j] = (int64_t)(s->limb[j] & (((wide)1 << 62) - 1));
    }
}

static state state_from_slot(const group_slot *slot) {
    state s = {(int64_t)slot->ties + slot->others, slot->max, slot->ties, slot->second, slot->base, {0, 0, 0}};
    if (slot->base == GENERAL || slot->base == NO_REST) s.base = base_of(slot->second, NATURAL);
    for (int j = 0; j < 3; j++) s.limb[j] = slot->high[j] * ((wide)1 << 62) + slot->low[j];
    return s;
}

/* Counts terms of the rest; every FLUSH of them the low parts are emptied into the high ones. */
INLINE void count_others(group_slot *slot, uint32_t n) {
    uint32_t others = slot->others + n;
    if (__builtin_expect((others ^ slot->others) >= FLUSH, 0))
        for (int j = 0; j < 3; j++) {
            int64_t carry = slot->low[j] >> 62;
            slot->high[j] += (int32_t)carry;
            slot->low[j] -= (int64_t)((uint64_t)carry << 62);
        }
    slot->others = others;
}

/* Adds terms to a slot by way of its state, whatever x is. */
static __attribute__((noinline)) void add_to_general_slot(group_slot *slot, double x, uint32_t times) {
    state s = state_from_slot(slot);
    s.count += times;
    take(&s, x, times, NATURAL);
    slot_from_state(slot, &s);
}

/* Takes a larger second, within FAR - SPAN, or -inf for none yet: its terms are yet to be added. Branches are few here and below,
   as with few rows per group most could not be foretold. */
INLINE void raise_slot_second(group_slot *slot, double x) {
    int32_t base = x == -INFINITY ? NO_REST : (int32_t)base_of_exponent(near_exponent(x));
    if ((slot->base != base) & (slot->base != NO_REST)) {
        int32_t down = (base - slot->base) / LIMB_BITS;
        for (int j = 2; j >= 0; j--) {
            slot->low[j] = j >= down ? slot->low[j - down] : 0;
            slot->high[j] = j >= down ? slot->high[j - down] : 0;
        }
    }
    slot->second = x + 0.0, slot->base = base;
}

/* Takes x, which is above the second: as the maximum, or one of its ties, or the second. Returns how many terms there are to be
   added, and writes whose: x, or the former maximum. */
INLINE uint32_t raise_slot(group_slot *slot, double *x) {
    double v = *x, max = slot->max;
    if (__builtin_expect(v == max, 0)) {
        slot->ties++;
        return 0;
    }
    int larger = v > max;
    uint32_t times = larger ? slot->ties : 1;
    double smaller = larger ? max : v;
    if (__builtin_expect((slot->base == GENERAL) | !is_simple(v) | ((smaller == -INFINITY) & (times != 0)), 0)) {
        add_to_general_slot(slot, v, 1);
        return 0;
    }
    slot->max = (larger ? v : max) + 0.0, slot->ties = larger ? 1 : slot->ties;
    raise_slot_second(slot, smaller);
    *x = smaller;
    return times;
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

/* Terms that are added to rests together, in segments of one slot each: where each starts, its slot, and how many times its first
   term counts. Of the terms x, at least second - SPAN; the grid; the limbs. Behind the last is room for what turns out to be
   none. */
typedef struct {
    size_t terms, segments;
    double x[ROWS + 1];
    uint16_t start[ROWS + 1];
    int32_t code[ROWS + 1];
    uint32_t times[ROWS + 1];
    uint64_t bias[ROWS];
    int64_t limb[3][ROWS];
} grouped_batch;

/* Puts what rows add to the rests of their slots into a batch, each as a segment. */
static void put_rows(group_slot *slots, const int32_t *codes, const double *x, size_t n, size_t left, grouped_batch *batch) {
    size_t terms = batch->terms;
    for (size_t j = 0; j < n; j++) {
        group_slot *slot = &slots[codes[j]];
        __builtin_prefetch(&slots[codes[j + PREFETCH_ROWS < left ? j + PREFETCH_ROWS : j]], 1);
        double v = x[j];
        uint32_t times = 1;
        if (!(v <= slot->second)) times = raise_slot(slot, &v);
        batch->x[terms] = v, batch->times[terms] = times, batch->code[terms] = codes[j];
        terms += times != 0;
    }
    batch->terms = batch->segments = terms;
}

/* Puts what a run of rows of one code adds into a batch, as a segment. */
static void put_run(group_slot *slots, int32_t code, const double *x, size_t n, grouped_batch *batch) {
    group_slot *slot = &slots[code];
    double max = run_max(x, n), second = loops->max_below(x, n, max), v = max;
    size_t first = batch->terms, terms = first;
    uint32_t times = 1, ties = 0;
    if (!is_simple(max) || !(is_simple(second) || second == -INFINITY) || slot->base == GENERAL) {
        add_rows_to_slot(slot, x, n);
        return;
    }
    if (max > slot->second) times = raise_slot(slot, &v);
    if (second > slot->second) raise_slot_second(slot, second);
    terms += times != 0;
    for (size_t j = 0; j < n; j++) {
        batch->x[terms] = x[j];
        terms += x[j] != max;
        ties += x[j] == max;
    }
    /* One of the rows is the max, so that there is room, unless they were written between the loops. */
    terms = terms < first + n ? terms : first + n;
    if (slot->max == max) slot->ties += ties - 1;
    if (times) batch->x[first] = v;
    size_t segment = batch->segments;
    batch->start[segment] = (uint16_t)first, batch->code[segment] = code;
    batch->times[segment] = times == 0 ? 1 : v == max ? ties : times;
    batch->start[segment + 1] = (uint16_t)terms;
    batch->segments += terms > first, batch->terms = terms;
}

/* Adds the terms of a batch; with single, each is a segment. */
INLINE void add_batch(group_slot *slots, grouped_batch *batch, int single) {
#define START(r) (single ? (r) : batch->start[r])
    /* Only now is the second of every slot, and with it the grid, final for this batch. */
    for (size_t r = 0; r < batch->segments; r++) {
        size_t j = START(r), end = START(r + 1);
        group_slot *slot = &slots[batch->code[r]];
        double floor = slot->second - SPAN;
        uint64_t bias = bias_of(slot->base);
        if (__builtin_expect(slot->base <= NO_REST, 0)) {
            for (size_t first = j; j < end; j++) {
                add_to_general_slot(slot, batch->x[j], j == first ? batch->times[r] : 1);
                batch->x[j] = 0.0, batch->bias[j] = bias_of(VANISHING_BASE);
            }
            continue;
        }
        count_others(slot, batch->times[r] + (uint32_t)(end - j - 1));
        for (; j < end; j++) batch->x[j] = batch->x[j] > floor ? batch->x[j] : floor, batch->bias[j] = bias;
    }
    for (size_t j = batch->terms; j % 8; j++) batch->x[j] = 0.0, batch->bias[j] = 0;
    loops->cut_each(batch->x, batch->bias, LANES_FOR(batch->terms), batch->limb[0], batch->limb[1], batch->limb[2]);
    for (size_t r = 0; r < batch->segments; r++) {
        size_t j = START(r), end = START(r + 1);
        group_slot *slot = &slots[batch->code[r]];
        if (__builtin_expect(batch->times[r] != 1, 0))
            for (int i = 0; i < 3; i++) {
                wide limb = (wide)batch->limb[i][j] * (batch->times[r] - 1) + slot->low[i];
                slot->high[i] += (int32_t)(limb >> 62);
                slot->low[i] = (int64_t)(limb & (((wide)1 << 62) - 1));
            }
        int64_t sum[3] = {0, 0, 0};
        for (; j < end; j++)
            for (int i = 0; i < 3; i++) sum[i] += batch->limb[i][j];
        for (int i = 0; i < 3; i++) slot->low[i] += sum[i];
    }
#undef START
}

/* Adds n <= ROWS rows, of left that follow in memory, to the slots of their codes. */
static void add_rows(group_slot *slots, const int32_t *codes, const double *x, size_t n, size_t left, grouped_batch *batch) {
    size_t runs = count_runs(codes, n);
    batch->terms = batch->segments = 0;
    for (size_t j = 0; j < n; j += 8) __builtin_prefetch(x + ROWS + j), __builtin_prefetch(codes + ROWS + j);
    if (runs == 1) {
        add_rows_to_slot(&slots[codes[0]], x, n);
    } else if (runs * SHORT_RUN > n) { /* runs so short that they do not pay */
        put_rows(slots, codes, x, n, left, batch);
        add_batch(slots, batch, 1);
    } else {
        for (size_t j = 0, end; j < n; j = end) {
            for (end = j + 1; end < n && codes[end] == codes[j]; end++);
            if (end - j >= LONG_RUN)
                add_rows_to_slot(&slots[codes[j]], x + j, end - j);
            else
                put_run(slots, codes[j], x + j, end - j, batch);
        }
        add_batch(slots, batch, 0);
    }
}

static void store_slot(record *r, const group_slot *slot) {
    state s = state_from_slot(slot);
    store(r, &s);
}

/* In ascending codes a group is complete when the next one begins: only the slots of one batch are in use. */
static void group_ascending(record *records, size_t groups, const int32_t *codes, const double *x, size_t n, grouped_batch *batch) {
    group_slot slots[ROWS + 1];
    int32_t place[ROWS];
    size_t next = 0;
    slots[0] = EMPTY_SLOT;
    for (size_t i = 0; i < n; i += ROWS) {
        size_t size = n - i < ROWS ? n - i : ROWS;
        int32_t last = 0;
        if (codes[i ? i - 1 : 0] == codes[i + size - 1]) { /* one long run */
            add_rows_to_slot(&slots[0], x + i, size);
            continue;
        }
        for (size_t j = 0; j < size; j++) {
            if (i + j > 0 && codes[i + j] != codes[i + j - 1]) slots[++last] = EMPTY_SLOT;
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

/* Slots of groups, and the states of those that have too many terms for one. */
typedef struct {
    group_slot *slot;
    size_t size;
    int64_t rows; /* added since the slots were last looked through */
    state *apart;
    uint32_t *place; /* of the first slots, one more than that of their state apart; 0 where there is none */
    size_t n_apart, room_apart, places;
} slots;

/* Merges a state into those apart. */
static int put_apart(slots *g, int32_t code, const state *s) {
    if ((size_t)code >= g->places) {
        size_t places = g->size + g->size / 2;
        uint32_t *place = realloc(g->place, places * sizeof *place);
        if (!place) return NO_MEMORY;
        memset(place + g->places, 0, (places - g->places) * sizeof *place);
        g->place = place, g->places = places;
    }
    if (g->place[code]) return merge(g->apart + g->place[code] - 1, *s, NATURAL);
    if (g->n_apart == g->room_apart) {
        size_t room = 2 * g->n_apart + 8;
        state *apart = realloc(g->apart, room * sizeof *apart);
        if (!apart) return NO_MEMORY;
        g->apart = apart, g->room_apart = room;
    }
    g->apart[g->n_apart++] = *s;
    g->place[code] = (uint32_t)g->n_apart;
    return DONE;
}

/* What is apart of a group, or NULL. */
static const state *apart_of(const slots *g, size_t i) {
    return i < g->places && g->place[i] ? g->apart + g->place[i] - 1 : NULL;
}

static void free_slots(slots *g) { free(g->apart), free(g->place); }

/* Makes sure that no counter overflows by n more rows. */
static int relieve_slots(slots *g, size_t n) {
    if (g->rows + (int64_t)n > 2 * MOST_OF_SLOT) {
        for (size_t i = 0; i < g->size; i++) {
            state s = state_from_slot(g->slot + i);
            if (s.count < MOST_OF_SLOT) continue;
            int result = put_apart(g, (int32_t)i, &s);
            if (result) return result;
            g->slot[i] = EMPTY_SLOT;
        }
        g->rows = 0;
    }
    g->rows += (int64_t)n;
    return DONE;
}

/* Adds values to the slots of their codes. */
static int add_values(slots *g, const int32_t *codes, const double *x, size_t n) {
    grouped_batch batch;
    for (size_t i = 0, end; i < n; i = end) {
        end = n - i < (size_t)MOST_OF_SLOT ? n : i + (size_t)MOST_OF_SLOT;
        int result = relieve_slots(g, end - i);
        if (result) return result;
        for (size_t j = i; j < end; j += ROWS) add_rows(g->slot, codes + j, x + j, end - j < ROWS ? end - j : ROWS, n - j, &batch);
    }
    return DONE;
}

static int store_slots(record *records, const slots *g) {
    for (size_t i = 0; i < g->size; i++) {
        state s = state_from_slot(g->slot + i);
        const state *apart = apart_of(g, i);
        if (apart && merge(&s, *apart, NATURAL)) return COUNT_OVERFLOW;
        store(records + i, &s);
    }
    return DONE;
}

static int group_values(record *records, size_t groups, const int32_t *codes, const double *x, size_t n) {
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    if (codes_ascend(codes, n) && n <= (size_t)MOST_OF_SLOT) {
        grouped_batch batch;
        group_ascending(records, groups, codes, x, n, &batch);
        return DONE;
    }
    slots g = {.slot = allocate(groups * sizeof(group_slot)), .size = groups};
    if (!g.slot) return NO_MEMORY;
    for (size_t i = 0; i < groups; i++) g.slot[i] = EMPTY_SLOT;
    int result = add_values(&g, codes, x, n);
    if (result == DONE) result = store_slots(records, &g);
    free(g.slot);
    free_slots(&g);
    return result;
}

/* Merges states into the records of their codes. */
static int add_records(record *records, const int32_t *codes, const record *states, size_t n, scale c) {
    for (size_t i = 0; i < n; i++) {
        record *r = records + codes[i];
        __builtin_prefetch(records + codes[i + PREFETCH_STATES < n ? i + PREFETCH_STATES : i], 1);
        state s = load(r, c);
        if (merge(&s, load(states + i, c), c)) return COUNT_OVERFLOW;
        store(r, &s);
    }
    return DONE;
}

/* Merges states into the slots of their codes. */
static int add_records_to_slots(slots *g, const int32_t *codes, const record *states, size_t n) {
    for (size_t i = 0; i < n; i++) {
        group_slot *slot = g->slot + codes[i];
        state s = state_from_slot(slot);
        if (merge(&s, load(states + i, NATURAL), NATURAL)) return COUNT_OVERFLOW;
        if (s.count >= MOST_OF_SLOT) {
            int result = put_apart(g, codes[i], &s);
            if (result) return result;
            s = EMPTY;
        }
        slot_from_state(slot, &s);
    }
    return DONE;
}

static int merge_groups(record *records, size_t groups, const int32_t *codes, const record *others, size_t n, scale c) {
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    for (size_t i = 0; i < groups; i++) store(records + i, &EMPTY);
    return add_records(records, codes, others, n, c);
}
