/* Whether a record is canonical: the one form that its terms, in any order, give. */

#define NO_FAULT (-1)

/* The first fault of a record, of those that record.py describes. */
static int fault_of(const record *r, scale c, int is_signed) {
    if (r->version != VERSION) return FAULT_VERSION;
    if (r->aggregation != AGGREGATION) return FAULT_AGGREGATION;
    if (r->scale != SCALE) return FAULT_SCALE;
    if (r->reserved != 0) return FAULT_RESERVED;
    if (r->count < 0) return FAULT_COUNT;
    state s = load(r);
    if (s.max != s.max && bits_of(s.max) != THE_NAN) return FAULT_MAX;
    if (bits_of(s.max) == 1ULL << 63 || (s.count == 0 && s.max != -INFINITY)) return FAULT_MAX;
    int fits = 1; /* a limb of a term is at most 2^49, so those of n terms at most n 2^50 */
    for (int j = 0; j < 3; j++) fits &= s.limb[j] >> LIMB_BITS >= -s.count && s.limb[j] >> LIMB_BITS <= s.count;
    if (is_signed && isfinite(s.max)) {
        /* The base is that of a weight, or of a weight times a term. */
        int64_t own[3], least = FAR_BASE, most = FAR_BASE + MOST_WEIGHT_BASE;
        double term, term_low;
        if (is_near_in(s.max, c)) {
            own_term(s.max, c, &least, &term, &term_low, own);
            most = FAR_BASE / 2 - 1;
        }
        if ((s.base - least) % LIMB_BITS != 0 || s.base < least + LEAST_WEIGHT_BASE || s.base > most) return FAULT_BASE;
        return fits ? NO_FAULT : FAULT_LIMBS;
    }
    if (is_near_in(s.max, c)) {
        int64_t base, own[3];
        double term, term_low;
        own_term(s.max, c, &base, &term, &term_low, own);
        if (s.base != base) return FAULT_BASE;
        if (!fits) return FAULT_LIMBS;
        for (int j = 0; j < 3; j++) s.limb[j] -= own[j];
        if (s.count == 1 && (s.limb[0] || s.limb[1] || s.limb[2])) return FAULT_LIMBS; /* the max is all there is */
        return is_negative(s.limb) ? FAULT_LIMBS : NO_FAULT;
    }
    if (s.base != NO_BASE) return FAULT_BASE;
    int first = isfinite(s.max) ? s.limb[0] > 0 && s.limb[0] <= s.count
                : is_signed && s.max == INFINITY ? s.limb[0] == 1 || s.limb[0] == -1
                                                 : s.limb[0] == 0;
    return first && s.limb[1] == 0 && s.limb[2] == 0 ? NO_FAULT : FAULT_LIMBS;
}

/* The fault of the first of n records that has one, and its row. */
static int find_fault(const record *records, size_t n, scale c, int is_signed, size_t *row) {
    int fault = NO_FAULT;
    for (*row = 0; *row < n && (fault = fault_of(records + *row, c, is_signed)) == NO_FAULT; ++*row);
    return fault;
}
