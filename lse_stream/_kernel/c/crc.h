/* The check of a stored record: CRC-32C (Castagnoli, RFC 3720) of all its bytes but the check's own, which are the upper half of
   the first word. */

static uint32_t crc_tables[8][256];

static void make_crc_tables(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int k = 0; k < 8; k++) crc = crc & 1 ? 0x82F63B78U ^ crc >> 1 : crc >> 1;
        crc_tables[0][i] = crc;
    }
    for (int t = 1; t < 8; t++)
        for (int i = 0; i < 256; i++) crc_tables[t][i] = crc_tables[0][crc_tables[t - 1][i] & 0xff] ^ crc_tables[t - 1][i] >> 8;
}

/* Bytes of which t others follow in the same step. */
#define OF_BYTE(bytes, place, t) crc_tables[t][(bytes) >> (8 * (place)) & 0xff]

static uint32_t check_by_tables(const uint64_t *words, size_t n) {
    uint32_t crc = 0xFFFFFFFFU ^ (uint32_t)words[0];
    crc = OF_BYTE(crc, 0, 3) ^ OF_BYTE(crc, 1, 2) ^ OF_BYTE(crc, 2, 1) ^ OF_BYTE(crc, 3, 0);
    for (size_t i = 1; i < n; i++) {
        uint64_t word = words[i] ^ crc;
        crc = 0;
        for (int place = 0; place < 8; place++) crc ^= OF_BYTE(word, place, 7 - place);
    }
    return crc ^ 0xFFFFFFFFU;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t check_by_instructions(const uint64_t *words, size_t n) {
    uint64_t crc = _mm_crc32_u32(0xFFFFFFFFU, (uint32_t)words[0]);
    for (size_t i = 1; i < n; i++) crc = _mm_crc32_u64(crc, words[i]);
    return (uint32_t)crc ^ 0xFFFFFFFFU;
}

static int has_crc_instructions(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__)
__attribute__((target("+crc"))) static uint32_t check_by_instructions(const uint64_t *words, size_t n) {
    uint32_t crc = __crc32cw(0xFFFFFFFFU, (uint32_t)words[0]);
    for (size_t i = 1; i < n; i++) crc = __crc32cd(crc, words[i]);
    return crc ^ 0xFFFFFFFFU;
}

static int has_crc_instructions(void) { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
#else
#define check_by_instructions check_by_tables
static int has_crc_instructions(void) { return 0; }
#endif

static uint32_t (*check_of)(const uint64_t *words, size_t n) = check_by_tables;

/* The portable loops go with the tables, so that these are tried wherever those are. */
static void choose_check(void) {
    check_of = loops != &set_portable && has_crc_instructions() ? check_by_instructions : check_by_tables;
}

/* Writes the checks of n records, each of the words from an offset to the next. */
static void seal_records(uint64_t *words, const int64_t *offsets, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint64_t *at = words + offsets[i];
        at[0] = (at[0] & 0xFFFFFFFFU) | (uint64_t)check_of(at, (size_t)(offsets[i + 1] - offsets[i])) << 32;
    }
}

/* The first of n records whose check is wrong, or n. */
static size_t find_damage(const uint64_t *words, const int64_t *offsets, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint64_t *at = words + offsets[i];
        if (at[0] >> 32 != check_of(at, (size_t)(offsets[i + 1] - offsets[i]))) return i;
    }
    return n;
}

/* Whether each record has a word at least, and all are within so many words. */
static int are_places(const int64_t *offsets, size_t n, size_t words) {
    int fit = offsets[0] >= 0 && (uint64_t)offsets[n] <= words;
    for (size_t i = 0; i < n; i++) fit &= offsets[i] < offsets[i + 1];
    return fit;
}
