/* The k smallest values of each group, copies counted, and the others on their way out. */

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

/* Moves the k smallest of n >= k values to the front, the largest of them behind the others (Hoare's Find). */
static void select_smallest(double *x, size_t n, size_t k) {
    ptrdiff_t low = 0, high = (ptrdiff_t)n - 1, last = (ptrdiff_t)k - 1;
    while (low < high) {
        double a = x[low], b = x[(low + high) / 2], c = x[high];
        double pivot = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
        ptrdiff_t i = low, j = high;
        while (i <= j) {
            while (x[i] < pivot) i++;
            while (x[j] > pivot) j--;
            if (i > j) break;
            double swapped = x[i];
            x[i++] = x[j], x[j--] = swapped;
        }
        if (last <= j)
            high = j;
        else if (last >= i)
            low = i;
        else
            return;
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

/* Adds a value below the limit of its group. */
static int put_small(smallest *g, size_t group, double x) {
    value_list *list = (value_list *)g->lists.start + group;
    if (list->size == list->room) {
        size_t room = list->room ? 2 * (size_t)list->room : 8;
        room = room < g->most ? room : g->most;
        double *values = realloc(list->value, room * sizeof *values);
        if (!values) return NO_MEMORY;
        g->bytes += (room - list->room) * sizeof *values;
        list->value = values, list->room = (uint32_t)room;
    }
    list->value[list->size++] = x + 0.0; /* 0.0, not -0.0 */
    if (list->size < g->most) return DONE;
    return keep_smallest(g, group);
}

/* Adds values to the lists of their codes. Those that count are few, and their lists too many for the cache: they are fetched
   for a batch at once. */
static int add_small(smallest *g, const int32_t *codes, const double *x, size_t n) {
    double *limits = (double *)g->limits.start;
    value_list *lists = (value_list *)g->lists.start;
    uint16_t counts[ROWS];
    for (size_t i = 0; i < n; i += ROWS) {
        size_t size = n - i < ROWS ? n - i : ROWS, found = 0;
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
        for (size_t j = 0; j < found; j++) {
            size_t row = i + counts[j];
            if (x[row] < limits[codes[row]]) { /* which may be lower by now */
                if (put_small(g, (size_t)codes[row], x[row])) return NO_MEMORY;
            } else {
                if (make_room_for_others(g, 1)) return NO_MEMORY;
                let_go(g, (size_t)codes[row], x[row]);
            }
        }
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
        double *limit = (double *)g->limits.start + codes[i];
        exact_head head;
        memcpy(&head, words + at[i], sizeof head);
        if (make_room_for_others(g, head.words)) return NO_MEMORY;
        if (head.special && make_special(g, (size_t)codes[i])) return NO_MEMORY;
        for (size_t j = 0; j < head.words; j++) {
            double x = double_of(words[(size_t)at[i] + 1 + j]);
            if (x < *limit) {
                if (put_small(g, (size_t)codes[i], x) || make_room_for_others(g, head.words)) return NO_MEMORY;
            } else {
                let_go(g, (size_t)codes[i], x);
            }
        }
    }
    return DONE;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
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
        if (n) qsort(list->value, n, sizeof(double), compare_doubles);
        exact_head head = {0, (uint16_t)n, list->is_special ? NOT_A_NUMBER : 0};
        begins[i] = (int64_t)at;
        memcpy(out + at, &head, sizeof head);
        if (n) memcpy(out + at + 1, list->value, n * sizeof(double));
        at += 1 + n;
    }
    begins[g->size] = (int64_t)at;
}
