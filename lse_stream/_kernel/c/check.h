/* Whether a sum is canonical: in the one form that its terms, in any order, give. */

#define NO_FAULT (-1)

/* The limbs of n terms, each at most 2^49, fit the number of terms. */
static int limbs_fit(const wide limb[3], int64_t n) {
    int fits = 1;
    for (int j = 0; j < 3; j++) fits &= limb[j] >> LIMB_BITS >= -n && limb[j] >> LIMB_BITS <= n;
    return fits;
}

static int is_empty(const wide limb[3]) { return limb[0] == 0 && limb[1] == 0 && limb[2] == 0; }

/* Whether the max is a number in its one form, and nothing but -inf without a term. */
static int max_fits(double max, int64_t count) {
    if (max != max && bits_of(max) != THE_NAN) return 0;
    return bits_of(max) != 1ULL << 63 && (count || max == -INFINITY);
}

/* The first fault of a record, of those that sums.py describes. */
static int fault_of(const record *r, scale c) {
    if (r->count < 0) return FAULT_COUNT;
    if (!max_fits(r->max, r->count)) return FAULT_MAX;
    int has_ties = r->count && r->max == r->max;
    if (r->ties < (r->max == -INFINITY ? r->count : has_ties) || r->ties > (has_ties ? r->count : 0)) return FAULT_TIES;
    int64_t others = r->count - r->ties;
    wide limb[3] = {r->limb[0], r->limb[1], r->limb[2]};
    if (bits_of(r->second) == bits_of(-INFINITY)) return is_empty(limb) ? NO_FAULT : FAULT_LIMBS;
    if (!is_near(r->max, c) || !is_near(r->second, c) || !(r->second < r->max) || bits_of(r->second) == 1ULL << 63 || !others)
        return FAULT_SECOND;
    if (!limbs_fit(limb, others)) return FAULT_LIMBS;
    double high, low;
    int64_t exponent, least[3];
    own_term(r->second, c, &high, &low, &exponent);
    limbs_on(high, low, exponent, base_of_exponent(exponent), least);
    for (int j = 0; j < 3; j++) limb[j] -= least[j];
    if (others == 1 && !is_empty(limb)) return FAULT_LIMBS; /* the second is all there is */
    return is_negative(limb) ? FAULT_LIMBS : NO_FAULT;
}

/* The first fault of a sum of weighted terms. */
static int weighted_fault_of(const weighted_record *r, scale c) {
    if (r->count < 0) return FAULT_COUNT;
    if (!max_fits(r->max, r->count)) return FAULT_MAX;
    wide limb[3] = {r->limb[0], r->limb[1], r->limb[2]};
    if (!isfinite(r->max)) {
        if (r->base != NO_BASE) return FAULT_BASE;
        int is_sign = r->max == INFINITY && (limb[0] == 1 || limb[0] == -1) && limb[1] == 0 && limb[2] == 0;
        return is_sign || (r->max != INFINITY && is_empty(limb)) ? NO_FAULT : FAULT_LIMBS;
    }
    /* The base is that of a weight, or of a weight times a term. */
    int64_t least = FAR_BASE, most = FAR_BASE + MOST_WEIGHT_BASE;
    if (is_near(r->max, c)) {
        least = base_of(r->max, c);
        most = FAR_BASE / 2 - 1;
    }
    if (r->base < least + LEAST_WEIGHT_BASE || r->base > most || (r->base - least) % LIMB_BITS != 0) return FAULT_BASE;
    return limbs_fit(limb, r->count) ? NO_FAULT : FAULT_LIMBS;
}

/* The fault of the first of n records that has one, and its row. */
static int find_fault(const void *records, size_t n, int has_weights, scale c, size_t *row) {
    for (*row = 0; *row < n; ++*row) {
        int fault = has_weights ? weighted_fault_of((const weighted_record *)records + *row, c)
                                : fault_of((const record *)records + *row, c);
        if (fault != NO_FAULT) return fault;
    }
    return NO_FAULT;
}
