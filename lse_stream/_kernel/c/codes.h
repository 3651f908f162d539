/* Codes: dense numbers of groups, one for each row. */

/* Whether every code is one of the groups. Negative ones are too large when taken as unsigned. */
static int codes_in_range(const int32_t *codes, size_t n, size_t groups) {
    uint32_t largest = 0;
    for (size_t i = 0; i < n; i++) largest = (uint32_t)codes[i] > largest ? (uint32_t)codes[i] : largest;
    return n == 0 || largest < groups;
}

/* Whether no code is below the one before it; looks at no more than it needs to, by blocks of ROWS. */
static int codes_ascend(const int32_t *codes, size_t n) {
    for (size_t i = 0; i < n; i += ROWS) {
        int descents = 0;
        for (size_t j = i + 1; j < n && j <= i + ROWS; j++) descents += codes[j] < codes[j - 1];
        if (descents) return 0;
    }
    return 1;
}

/* How many runs of one code n >= 1 rows have. */
INLINE size_t count_runs(const int32_t *codes, size_t n) {
    size_t runs = 1;
    for (size_t j = 1; j < n; j++) runs += codes[j] != codes[j - 1];
    return runs;
}

/* Writes where the rows of each code begin, in the order of their codes. */
static void find_begins(const int32_t *codes, size_t n, size_t groups, int64_t *begins) {
    int64_t start = 0;
    memset(begins, 0, groups * sizeof *begins);
    for (size_t i = 0; i < n; i++) begins[codes[i]]++;
    for (size_t g = 0; g < groups; g++) {
        int64_t count = begins[g];
        begins[g] = start, start += count;
    }
}

/* Rows in the order of their codes. begins is for as many groups as there are. */
static int sort_rows(const int32_t *codes, const double *values, size_t n, size_t groups, int64_t *begins, int32_t *sorted_codes,
                     double *sorted_values) {
    if (!codes_in_range(codes, n, groups)) return BAD_CODE;
    find_begins(codes, n, groups, begins);
    for (size_t i = 0; i < n; i++) sorted_values[begins[codes[i]]++] = values[i];
    for (size_t g = 0, i = 0; g < groups; g++)
        for (; i < (size_t)begins[g]; i++) sorted_codes[i] = (int32_t)g;
    return DONE;
}
