/* The k smallest values of each group, copies counted, and the others on their way out. */

#define FEW_TO_SORT 12 /* values */

/* At least the k smallest that were added, in no order. */
typedef struct {
    double *value;
    uint32_t size, room;
    int is_special; /* NaN or +inf was added */
} value_list;

typedef struct {
    shared base;
    size_t k, most; /* values that a list keeps, and has at most before the others are dropped */
    size_t size;    /* of groups */
    block limits;   /* of each group, below which a value may be one of the k smallest */
    block lists;
    size_t bytes;
    int32_t *other_code; /* values that are not, or no longer, among the k smallest, until they are taken */
    double *other;
    size_t others, room;
} smallest;

/* Moves what is below a pivot, or with equal what is not above it, to the front; returns how many that are. */
INLINE size_t partition(double *x, size_t n, double pivot, int equal) {
    size_t found = 0;
    for (size_t i = 0; i < n; i++) { /* no branch: where a value goes cannot be foretold */
        double v = x[i];
        x[i] = x[found], x[found] = v;
        found += (size_t)(equal ? v <= pivot : v < pivot);
    }
    return found;
}

/* A value with about as many below as above it, also of sorted values, and of two such sequences, one behind the other. */
INLINE double pivot_of(const double *x, size_t n) {
    double a = x[n / 4], b = x[n / 2], c = x[n - 1 - n / 4];
    return a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
}

/* Moves the k smallest of n >= k > 0 values to the front, the largest of them behind the others. */
static void select_smallest(double *x, size_t n, size_t k) {
    for (;;) {
        double pivot = pivot_of(x, n);
        size_t below = partition(x, n, pivot, 0);
        if (k <= below) {
            n = below;
            continue;
        }
        below += partition(x + below, n - below, pivot, 1);
        if (k <= below) return;
        x += below, n -= below, k -= below;
    }
}

/* Makes room for n groups; new ones are empty. */
static int smallest_grow(smallest *g, size_t n) {
    if (n <= g->size) return DONE;
    if (n * sizeof(value_list) > g->lists.bytes) {
        size_t room = n + n / 2 + 64;
        if (block_grow(&g->limits, room * sizeof(double)) || block_grow(&g->lists, room * sizeof(value_list))) return NO_MEMORY;
    }
    for (size_t i = g->size; i < n; i++) {
        ((double *)g->limits.start)[i] = INFINITY;
        ((value_list *)g->lists.start)[i] = (value_list){NULL, 0, 0, 0};
    }
    g->size = n;
    return DONE;
}

static int make_room_for_others(smallest *g, size_t more) {
    if (g->others + more <= g->room) return DONE;
    size_t room = 2 * g->room > g->others + more ? 2 * g->room : g->others + more;
    int32_t *codes = realloc(g->other_code, room * sizeof *codes);
    if (codes) g->other_code = codes;
    double *values = realloc(g->other, room * sizeof *values);
    if (values) g->other = values;
    if (!codes || !values) return NO_MEMORY;
    g->room = room;
    return DONE;
}

/* Puts a value, for which there is room, among those that are not kept. */
INLINE void let_go(smallest *g, size_t group, double x) {
    g->other_code[g->others] = (int32_t)group;
    g->other[g->others++] = x + 0.0; /* 0.0, not -0.0 */
}

/* Lets go of the values of a list from one on. */
static int shorten(smallest *g, size_t group, size_t size) {
    value_list *list = (value_list *)g->lists.start + group;
    if (make_room_for_others(g, list->size - size)) return NO_MEMORY;
    for (size_t i = size; i < list->size; i++) let_go(g, group, list->value[i]);
    list->size = (uint32_t)size;
    return DONE;
}

/* From now on the list of a group is empty, and says that NaN or +inf was added. */
static int make_special(smallest *g, size_t group) {
    value_list *list = (value_list *)g->lists.start + group;
    if (shorten(g, group, 0)) return NO_MEMORY;
    free(list->value);
    g->bytes -= list->room * sizeof *list->value;
    *list = (value_list){NULL, 0, 0, 1};
    ((double *)g->limits.start)[group] = -INFINITY;
    return DONE;
}

/* Lets go of what a list of at least k values has beyond the k smallest. */
static int keep_smallest(smallest *g, size_t group) {
    value_list *list = (value_list *)g->lists.start + group;
    select_smallest(list->value, list->size, g->k);
    ((double *)g->limits.start)[group] = list->value[g->k - 1];
    return shorten(g, group, g->k);
}

/* Adds values to the list of their group, and lets go of those that are not below its limit by then. */
static int put_small(smallest *g, size_t group, const double *x, size_t n) {
    value_list *list = (value_list *)g->lists.start + group;
    const double *limit = (const double *)g->limits.start + group;
    while (n) {
        if (!(*x < *limit)) {
            if (make_room_for_others(g, 1)) return NO_MEMORY;
            let_go(g, group, *x);
            x++, n--;
            continue;
        }
        if (list->size == list->room) {
            size_t room = list->room ? 2 * (size_t)list->room : 8;
            room = room < g->most ? room : g->most;
            double *values = realloc(list->value, room * sizeof *values);
            if (!values) return NO_MEMORY;
            g->bytes += (room - list->room) * sizeof *values;
            list->value = values, list->room = (uint32_t)room;
        }
        for (; n && list->size < list->room && *x < *limit; x++, n--) list->value[list->size++] = *x + 0.0; /* 0.0, not -0.0 */
        if (list->size == g->most && keep_smallest(g, group)) return NO_MEMORY;
    }
    return DONE;
}

/* Adds n <= ROWS values of one group. */
static int add_small_run(smallest *g, int32_t code, const double *x, size_t n) {
    const double *limit = (const double *)g->limits.start + code;
    double small[ROWS + 1];
    size_t found = 0, others;
    int bad = 0;
    if (make_room_for_others(g, n + 1)) return NO_MEMORY;
    others = g->others;
    for (size_t j = 0; j < n; j++) { /* no branch: which ones are small cannot be foretold */
        double v = x[j];
        int is_small = v < *limit;
        small[found] = v, g->other[others] = v + 0.0;
        found += (size_t)is_small, others += (size_t)!is_small;
        bad |= !(v < INFINITY);
    }
    for (size_t j = g->others; j < others; j++) g->other_code[j] = code;
    g->others = others;
    if (bad && make_special(g, (size_t)code)) return NO_MEMORY;
    return put_small(g, (size_t)code, small, found);
}

/* Adds values to the lists of their codes. Those that count are few, and their lists too many for the cache: they are fetched
   for a batch at once. */
static int add_small(smallest *g, const int32_t *codes, const double *x, size_t n) {
    double *limits = (double *)g->limits.start;
    value_list *lists = (value_list *)g->lists.start;
    uint16_t counts[ROWS];
    for (size_t i = 0; i < n; i += ROWS) {
        size_t size = n - i < ROWS ? n - i : ROWS, found = 0;
        if (count_runs(codes + i, size) * SHORT_RUN <= size) {
            for (size_t j = 0, end; j < size; j = end) {
                for (end = j + 1; end < size && codes[i + end] == codes[i + j]; end++);
                if (add_small_run(g, codes[i + j], x + i + j, end - j)) return NO_MEMORY;
            }
            continue;
        }
        if (make_room_for_others(g, ROWS)) return NO_MEMORY;
        for (size_t j = 0; j < size; j++) {
            double v = x[i + j];
            int32_t code = codes[i + j];
            if (__builtin_expect(v < limits[code], 0)) {
                counts[found++] = (uint16_t)j;
                __builtin_prefetch(lists + code, 1);
                continue;
            }
            let_go(g, (size_t)code, v);
            if (__builtin_expect(!(v < INFINITY), 0) && (make_special(g, (size_t)code) || make_room_for_others(g, ROWS)))
                return NO_MEMORY;
        }
        for (size_t j = 0; j < found; j++) {
            const value_list *list = lists + codes[i + counts[j]];
            __builtin_prefetch(list->value + list->size, 1);
        }
        for (size_t j = 0; j < found; j++)
            if (put_small(g, (size_t)codes[i + counts[j]], x + i + counts[j], 1)) return NO_MEMORY;
    }
    return DONE;
}

/* Whether a list is stored at each place among so many words. */
static int are_lists(const uint64_t *words, size_t size, const int64_t *at, size_t n, size_t k) {
    for (size_t i = 0; i < n; i++) {
        if (at[i] < 0 || (uint64_t)at[i] >= size) return 0;
        exact_head head;
        memcpy(&head, words + at[i], sizeof head);
        if (head.words > k || head.words >= size - (size_t)at[i]) return 0;
    }
    return 1;
}

/* Merges lists stored at places among words: values that ascend. */
static int merge_small(smallest *g, const int32_t *codes, const uint64_t *words, const int64_t *at, size_t n) {
    for (size_t i = 0; i < n; i++) {
        exact_head head;
        double x[ROWS];
        memcpy(&head, words + at[i], sizeof head);
        if (head.special && make_special(g, (size_t)codes[i])) return NO_MEMORY;
        for (size_t j = 0, size; j < head.words; j += size) {
            size = head.words - j < ROWS ? head.words - j : ROWS;
            memcpy(x, words + at[i] + 1 + j, size * sizeof *x);
            if (put_small(g, (size_t)codes[i], x, size)) return NO_MEMORY;
        }
    }
    return DONE;
}

/* Sorts by Quicksort, and a few values by insertion. */
static void sort_ascending(double *x, size_t n) {
    while (n > FEW_TO_SORT) {
        double pivot = pivot_of(x, n);
        size_t below = partition(x, n, pivot, 0), above = below + partition(x + below, n - below, pivot, 1);
        if (below < n - above) { /* the smaller part first, so that few calls are open */
            sort_ascending(x, below);
            x += above, n -= above;
        } else {
            sort_ascending(x + above, n - above);
            n = below;
        }
    }
    for (size_t i = 1; i < n; i++) {
        double v = x[i];
        size_t j = i;
        for (; j && x[j - 1] > v; j--) x[j] = x[j - 1];
        x[j] = v;
    }
}

/* Lets go of what the lists have beyond the k smallest. */
static int settle_smallest(smallest *g) {
    for (size_t i = 0; i < g->size; i++)
        if (((value_list *)g->lists.start)[i].size > g->k && keep_smallest(g, i)) return NO_MEMORY;
    return DONE;
}

/* How many words the lists of all groups take, once settled, as they are stored: heads as of exact sums, then values that
   ascend. Where NaN or +inf was added there are none, and the head says so. */
static size_t smallest_words(const smallest *g) {
    size_t words = g->size;
    for (size_t i = 0; i < g->size; i++) {
        const value_list *list = (const value_list *)g->lists.start + i;
        words += list->size;
    }
    return words;
}

static void store_smallest(smallest *g, int64_t *begins, uint64_t *out) {
    size_t at = 0;
    for (size_t i = 0; i < g->size; i++) {
        value_list *list = (value_list *)g->lists.start + i;
        size_t n = list->size;
        sort_ascending(list->value, n);
        exact_head head = {0, (uint16_t)n, list->is_special ? NOT_A_NUMBER : 0};
        begins[i] = (int64_t)at;
        memcpy(out + at, &head, sizeof head);
        if (n) memcpy(out + at + 1, list->value, n * sizeof(double));
        at += 1 + n;
    }
    begins[g->size] = (int64_t)at;
}
