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

/* Where a window is follows from the first value, whose lowest bit is in a chunk of the sum. */
INLINE void place_window(exact_window *w, int low) {
    if (!w->is_used) w->is_used = 1, w->first = (int16_t)(low - 1);
}

/* Whether there is room for bits in chunks low to high of the sum, and their carry. */
INLINE int has_room(const exact_window *w, int low, int high) {
    return low >= w->first && high + 2 < w->first + WINDOW && !w->is_full;
}

/* Adds a, or a b; returns whether it fits: what is not finite does not. Where b is 0 there is nothing to add. */
INLINE int fits_window(exact_window *w, double a, double b, int is_product) {
    if (is_product && b == 0.0) return 1;
    if (!(fabs(a) <= DBL_MAX && fabs(b) <= DBL_MAX)) return 0;
    int of_a, of_b = 0, negative = signbit(a) != signbit(b);
    uint64_t ma = mantissa_of(a, &of_a), mb = is_product ? mantissa_of(b, &of_b) : 1;
    int at = of_a + of_b - UNIT, low = at >> 5, high = is_product ? (at + 53) >> 5 : low;
    if (!ma) return 1;
    place_window(w, low);
    if (!has_room(w, low, high)) return 0;
    int from = low - w->first, to = high - w->first;
    if (is_product) {
        unsigned __int128 m = (unsigned __int128)ma * mb;
        add_to_chunks(w->chunk + from, at & 31, (uint64_t)m & ((1ULL << 53) - 1), negative);
        add_to_chunks(w->chunk + to, (at + 53) & 31, (uint64_t)(m >> 53), negative);
    } else {
        add_to_chunks(w->chunk + from, at & 31, ma, negative);
    }
    if (++w->additions >= ADDITIONS) propagate_window(w);
    return 1;
}

/* Adds n <= ROWS values, or their squares, at once; returns whether they fit. */
static int fit_window(exact_window *w, const double *x, size_t n, int squares) {
    double part[PARTS];
    uint64_t bits[PARTS];
    int at[PARTS], low = INT16_MAX, high = -1;
    if (!(squares ? loops->squares_in_parts : loops->sum_in_parts)(x, n, part)) return 0;
    for (int p = 0; p < PARTS; p++) {
        int exponent, zeros;
        if (!(bits[p] = mantissa_of(part[p], &exponent))) continue;
        zeros = __builtin_ctzll(bits[p]);
        bits[p] >>= zeros, at[p] = exponent + zeros - UNIT;
        low = at[p] >> 5 < low ? at[p] >> 5 : low, high = at[p] >> 5 > high ? at[p] >> 5 : high;
    }
    if (high < 0) return 1; /* they cancel */
    for (size_t i = 0; i < n && !w->is_used; i++) { /* as if they were added alone */
        int exponent;
        if (mantissa_of(x[i], &exponent)) place_window(w, ((squares ? 2 * exponent : exponent) - UNIT) >> 5);
    }
    if (!has_room(w, low, high)) return 0;
    for (int p = 0; p < PARTS; p++)
        if (bits[p]) add_to_chunks(w->chunk + (at[p] >> 5) - w->first, at[p] & 31, bits[p], signbit(part[p]) != 0);
    if ((w->additions += PARTS) >= ADDITIONS) propagate_window(w);
    return 1;
}

/* Adds a b of each row, b being 1 where it is NULL, to the window of its code; writes the rows that do not fit, and returns how
   many these are. */
static size_t add_to_windows(exact_windows *g, const int32_t *codes, const double *a, const double *b, size_t n, int64_t *others) {
    exact_window *windows = (exact_window *)g->windows.start;
    size_t found = 0;
    for (size_t i = 0, end; i < n; i = end) {
        exact_window *w = windows + codes[i];
        for (end = i + 1; end < n && end - i < ROWS && codes[end] == codes[i]; end++);
        if (end - i > SHORT_RUN && (!b || b == a) && fit_window(w, a + i, end - i, b == a)) continue;
        for (size_t j = i; j < end; j++) {
            __builtin_prefetch(windows + codes[j + PREFETCH_STATES < n ? j + PREFETCH_STATES : j], 1);
            if (__builtin_expect(!(b ? fits_window(w, a[j], b[j], 1) : fits_window(w, a[j], 1.0, 0)), 0)) others[found++] = (int64_t)j;
        }
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
