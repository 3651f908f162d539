/* Hashes of keys, which are the same on every machine, and the shards that follow from them. */

static uint32_t crc_table[256];

static void make_crc_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        crc_table[i] = i;
        for (int k = 0; k < 8; k++) crc_table[i] = crc_table[i] & 1 ? 0xEDB88320U ^ crc_table[i] >> 1 : crc_table[i] >> 1;
    }
}

/* CRC-32 as of zlib, and the length above it: what a byte string contributes to the hash of a key, on every machine. */
static void checksum_bytes(const void *offsets, size_t offset_size, const char *data, size_t n, uint64_t *out) {
    for (size_t i = 0; i < n; i++) {
        int64_t begin = offset_at(offsets, offset_size, i), end = offset_at(offsets, offset_size, i + 1);
        uint32_t crc = 0xFFFFFFFFU;
        for (int64_t j = begin; j < end; j++) crc = crc_table[(crc ^ (unsigned char)data[j]) & 0xff] ^ crc >> 8;
        out[i] = (uint64_t)(crc ^ 0xFFFFFFFFU) | (uint64_t)(end - begin) << 32;
    }
}

/* SplitMix64's step and finalizer (Steele, Lea, Flood, OOPSLA 2014). */
INLINE uint64_t mix_hash(uint64_t word) {
    word += GOLDEN;
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9ULL;
    word = (word ^ word >> 27) * 0x94D049BB133111EBULL;
    return word ^ word >> 31;
}

/* Adds one more key column to the hashes of rows. valid (may be NULL): a byte for each row, 0 for null. */
static void hash_column(uint64_t *hashes, const uint64_t *words, const char *valid, size_t n) {
    if (valid)
        for (size_t i = 0; i < n; i++) hashes[i] = mix_hash(hashes[i] + (valid[i] ? mix_hash(words[i]) : 0));
    else
        for (size_t i = 0; i < n; i++) hashes[i] = mix_hash(hashes[i] + mix_hash(words[i]));
}

/* The rows of each shard, one shard after another, in their order; ends are where the shards end. */
static int rows_by_shard(const int32_t *shards, size_t n, size_t num_shards, int64_t *rows, int64_t *ends) {
    if (!codes_in_range(shards, n, num_shards)) return BAD_CODE;
    find_begins(shards, n, num_shards, ends);
    for (size_t i = 0; i < n; i++) rows[ends[shards[i]]++] = (int64_t)i;
    return DONE;
}
