/* Exact sums of groups while rows are added: of most data a few chunks of a sum are not 0, and fit a cache line. */

#define WINDOW 7 /* chunks; the last is for carries alone, and contains the sign */

typedef struct {
    int64_t chunk[WINDOW];
    int16_t first; /* chunk of the sum that chunk[0] is */
    uint16_t additions;
    int16_t is_used, is_full;
} exact_window;

typedef struct {
    shared base;
    size_t size; /* of groups */
    block windows;
} exact_windows;

static int windows_grow(exact_windows *g, size_t n) {
    if (n <= g->size) return DONE;
    if (n * sizeof(exact_window) > g->windows.bytes && block_grow(&g->windows, (n + n / 2 + 64) * sizeof(exact_window))) return NO_MEMORY;
    memset((exact_window *)g->windows.start + g->size, 0, (n - g->size) * sizeof(exact_window));
    g->size = n;
    return DONE;
}

static void propagate_window(exact_window *w) {
    int64_t carry = 0;
    for (int i = 0; i < WINDOW - 1; i++) {
        int64_t total = w->chunk[i] + carry;
        w->chunk[i] = total & 0xffffffff;
        carry = total >> 32;
    }
    w->chunk[WINDOW - 1] += carry;
    w->is_full = w->chunk[WINDOW - 1] >> 61 != 0 && w->chunk[WINDOW - 1] >> 61 != -1;
    w->additions = 0;
}

/* Adds a, or a b; returns whether it fits: what is not finite does not. Where b is 0 there is nothing to add. */
INLINE int fits_window(exact_window *w, double a, double b, int is_product) {
    if (is_product && b == 0.0) return 1;
    if (!(fabs(a) <= DBL_MAX && fabs(b) <= DBL_MAX)) return 0;
    int of_a, of_b = 0, negative = signbit(a) != signbit(b);
    uint64_t ma = mantissa_of(a, &of_a), mb = is_product ? mantissa_of(b, &of_b) : 1;
    int at = of_a + of_b - UNIT, low = at >> 5, high = is_product ? (at + 53) >> 5 : low;
    if (!ma) return 1;
    if (!w->is_used) w->is_used = 1, w->first = (int16_t)(low - 1);
    int from = low - w->first, to = high - w->first;
    if (from < 0 || to + 1 >= WINDOW - 1 || w->is_full) return 0;
    if (is_product) {
        unsigned __int128 m = (unsigned __int128)ma * mb;
        add_to_chunks(w->chunk + from, at & 31, (uint64_t)m & ((1ULL << 53) - 1), negative);
        add_to_chunks(w->chunk + to, (at + 53) & 31, (uint64_t)(m >> 53), negative);
    } else {
        add_to_chunks(w->chunk + from, at & 31, ma, negative);
    }
    if (++w->additions == ADDITIONS) propagate_window(w);
    return 1;
}

/* Adds a b of each row, b being 1 where it is NULL, to the window of its code; writes the rows that do not fit, and returns how
   many these are. */
static size_t add_to_windows(exact_windows *g, const int32_t *codes, const double *a, const double *b, size_t n, int64_t *others) {
    exact_window *windows = (exact_window *)g->windows.start;
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        exact_window *w = windows + codes[i];
        __builtin_prefetch(windows + codes[i + PREFETCH_STATES < n ? i + PREFETCH_STATES : i], 1);
        if (__builtin_expect(!(b ? fits_window(w, a[i], b[i], 1) : fits_window(w, a[i], 1.0, 0)), 0)) others[found++] = (int64_t)i;
    }
    return found;
}

/* The words of the sums of all windows, which are empty then, and where each begins. */
static int take_windows(exact_windows *g, int64_t *begins, buffer *out) {
    exact_sum s;
    clear(&s);
    int result = DONE;
    for (size_t i = 0; i < g->size && result == DONE; i++) {
        exact_window *w = (exact_window *)g->windows.start + i;
        begins[i] = (int64_t)out->size;
        for (int j = 0; j < WINDOW; j++) {
            if (!w->chunk[j]) continue;
            int chunk = w->first + j;
            s.chunk[chunk] = w->chunk[j];
            s.first = chunk < s.first ? chunk : s.first;
            s.last = chunk;
        }
        result = append_exact(out, &s);
        *w = (exact_window){{0}, 0, 0, 0, 0};
    }
    begins[g->size] = (int64_t)out->size;
    return result;
}
