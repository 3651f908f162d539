/* Whether a record is canonical: the one form that its terms, in any order, give. */

/* Index of the fault in record.py's FAULTS, or -1. */
static int fault_of(const record *r, scale c, int is_signed) {
    if (r->version != 1) return 0;
    if (r->kind != 0) return 1;
    if (r->scale != 0) return 2;
    if (r->reserved != 0) return 3;
    if (r->count < 0) return 4;
    state s = load(r);
    if (s.max != s.max && bits_of(s.max) != 0x7ff8000000000000ULL) return 5;
    if (bits_of(s.max) == 1ULL << 63 || (s.count == 0 && s.max != -INFINITY)) return 5;
    int fits = 1;
    for (int j = 0; j < 3; j++) fits &= s.limb[j] >> LIMB_BITS >= -s.count && s.limb[j] >> LIMB_BITS <= s.count;
    if (is_signed && isfinite(s.max)) {
        /* The base is that of a weight, or of a weight times a term: with |weight| from 2^-1074 to 2^1024. */
        int64_t own[3], least = FAR_BASE, most = FAR_BASE + 1050;
        double term, term_low;
        if (is_near_in(s.max, c)) {
            own_term(s.max, c, &least, &term, &term_low, own);
            most = FAR_BASE / 2 - 1;
        }
        if ((s.base - least) % LIMB_BITS != 0 || s.base < least - 1100 || s.base > most) return 6;
        return fits ? -1 : 7;
    }
    if (is_near_in(s.max, c)) {
        int64_t base, own[3];
        double term, term_low;
        own_term(s.max, c, &base, &term, &term_low, own);
        if (s.base != base) return 6;
        if (!fits) return 7;
        for (int j = 0; j < 3; j++) s.limb[j] -= own[j];
        if (s.count == 1 && (s.limb[0] || s.limb[1] || s.limb[2])) return 7; /* the max is all there is */
        return s.limb[0] + ((s.limb[1] + (s.limb[2] >> LIMB_BITS)) >> LIMB_BITS) < 0 ? 7 : -1;
    }
    if (s.base != NO_BASE) return 6;
    int first = isfinite(s.max) ? s.limb[0] > 0 && s.limb[0] <= s.count
                : is_signed && s.max == INFINITY ? s.limb[0] == 1 || s.limb[0] == -1
                                                 : s.limb[0] == 0;
    return first && s.limb[1] == 0 && s.limb[2] == 0 ? -1 : 7;
}

/* The fault of the first of n records that has one, and its row; or -1. */
static int find_fault(const record *records, size_t n, scale c, int is_signed, size_t *row) {
    int fault = -1;
    for (*row = 0; *row < n && (fault = fault_of(records + *row, c, is_signed)) < 0; ++*row);
    return fault;
}
