/* Growing indexes of keys: dense codes in order of first appearance, which stay the same as long as the index lives.

   A word index has keys of some 64-bit words each, a byte index byte strings and null. */

#define LOOK_AHEAD 16   /* rows whose slots are fetched before they are probed */
#define LEAST_BITS 6    /* of the number of slots */
#define HASHED_ROWS 128 /* keys of several words are hashed this many at a time */

/* A slot of an index of keys of one word, which the slot itself contains. */
typedef struct {
    int64_t key;
    int32_t code; /* -1: free */
} word_slot;

/* A slot of an index of longer keys: 32 bits of the hash distinguish most of those that meet in a slot. */
typedef struct {
    uint32_t tag;
    int32_t code;
} tag_slot;

/* Fibonacci hashing (Knuth, TAOCP 6.4): the upper bits of a product. */
#define GOLDEN 0x9E3779B97F4A7C15ULL
INLINE size_t slot_of(uint64_t hash, int shift) { return (size_t)(hash * GOLDEN >> shift); }

INLINE uint64_t mix_word(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * GOLDEN;
    return hash ^ hash >> 32;
}

static void *new_slots(int bits, size_t size) {
    void *slots = allocate(size << bits);
    if (slots) memset(slots, 0xff, size << bits); /* a code of -1 */
    return slots;
}

/* Beyond 5/8 full, probing gets long. */
static int is_full(size_t keys, int bits) { return keys >= ((size_t)5 << bits) / 8; }

/* --- keys of words ---------------------------------------------------------------------------------------------- */

typedef struct {
    shared base;
    size_t width; /* words of a key */
    int bits;
    size_t size;
    block words; /* the keys, one after another */
    void *slots; /* word_slot where the width is 1, else tag_slot */
} word_index;

static uint64_t hash_words(const int64_t *key, size_t width) {
    uint64_t hash = 0;
    for (size_t j = 0; j < width; j++) hash = mix_word(hash, (uint64_t)key[j]);
    return hash;
}

static int word_index_grow(word_index *index) {
    int bits = index->bits + 1;
    size_t mask = ((size_t)1 << bits) - 1, width = index->width;
    const int64_t *keys = (const int64_t *)index->words.start;
    if (width == 1) {
        word_slot *slots = new_slots(bits, sizeof *slots);
        if (!slots) return NO_MEMORY;
        for (size_t c = 0; c < index->size; c++) {
            if (c + LOOK_AHEAD < index->size) __builtin_prefetch(slots + slot_of((uint64_t)keys[c + LOOK_AHEAD], 64 - bits), 1);
            size_t at = slot_of((uint64_t)keys[c], 64 - bits);
            while (slots[at].code >= 0) at = (at + 1) & mask;
            slots[at] = (word_slot){keys[c], (int32_t)c};
        }
        free(index->slots);
        index->slots = slots;
    } else {
        tag_slot *slots = new_slots(bits, sizeof *slots);
        if (!slots) return NO_MEMORY;
        for (size_t c = 0; c < index->size; c++) {
            uint64_t hash = hash_words(keys + c * width, width);
            size_t at = slot_of(hash, 64 - bits);
            while (slots[at].code >= 0) at = (at + 1) & mask;
            slots[at] = (tag_slot){(uint32_t)hash, (int32_t)c};
        }
        free(index->slots);
        index->slots = slots;
    }
    index->bits = bits;
    return DONE;
}

/* Room for one more key, and below the slots' limit. */
static int word_index_room(word_index *index) {
    size_t needed = (index->size + 1) * index->width * 8;
    if (needed > index->words.bytes && block_grow(&index->words, 2 * needed + 1024)) return NO_MEMORY;
    if (index->size == INT32_MAX) return TOO_MANY;
    return is_full(index->size + 1, index->bits) ? word_index_grow(index) : DONE;
}

/* Codes of keys of one word; of one that is not there -1, or, with add, a new one. */
static int encode_words(word_index *index, const int64_t *keys, size_t n, int32_t *codes, int add) {
    word_slot *slots = index->slots;
    size_t mask = ((size_t)1 << index->bits) - 1;
    int shift = 64 - index->bits;
    for (size_t i = 0; i < n; i++) {
        __builtin_prefetch(slots + slot_of((uint64_t)keys[i + LOOK_AHEAD < n ? i + LOOK_AHEAD : i], shift));
        size_t at = slot_of((uint64_t)keys[i], shift);
        while (slots[at].code >= 0 && slots[at].key != keys[i]) at = (at + 1) & mask;
        if (slots[at].code < 0 && add) {
            int result = word_index_room(index);
            if (result) return result;
            slots = index->slots, mask = ((size_t)1 << index->bits) - 1, shift = 64 - index->bits;
            at = slot_of((uint64_t)keys[i], shift);
            while (slots[at].code >= 0) at = (at + 1) & mask;
            slots[at] = (word_slot){keys[i], (int32_t)index->size};
            ((int64_t *)index->words.start)[index->size++] = keys[i];
        }
        codes[i] = slots[at].code;
    }
    return DONE;
}

/* Codes of keys of several words, given as columns; of one that is not there -1, or, with add, a new one. */
static int encode_columns(word_index *index, const int64_t *const *columns, size_t n, int32_t *codes, int add) {
    size_t width = index->width;
    uint64_t hash[HASHED_ROWS];
    for (size_t from = 0; from < n; from += HASHED_ROWS) {
        size_t rows = n - from < HASHED_ROWS ? n - from : HASHED_ROWS;
        for (size_t i = 0; i < rows; i++) hash[i] = mix_word(0, (uint64_t)columns[0][from + i]);
        for (size_t j = 1; j < width; j++)
            for (size_t i = 0; i < rows; i++) hash[i] = mix_word(hash[i], (uint64_t)columns[j][from + i]);
        for (size_t i = 0; i < rows; i++) __builtin_prefetch((tag_slot *)index->slots + slot_of(hash[i], 64 - index->bits));
        for (size_t i = 0; i < rows; i++) {
            int32_t code = ((tag_slot *)index->slots)[slot_of(hash[i], 64 - index->bits)].code;
            if (code >= 0) __builtin_prefetch((int64_t *)index->words.start + (size_t)code * width);
        }
        for (size_t i = 0; i < rows; i++) {
            tag_slot *slots = index->slots;
            size_t mask = ((size_t)1 << index->bits) - 1, at = slot_of(hash[i], 64 - index->bits);
            for (; slots[at].code >= 0; at = (at + 1) & mask) {
                if (slots[at].tag != (uint32_t)hash[i]) continue;
                const int64_t *key = (const int64_t *)index->words.start + (size_t)slots[at].code * width;
                size_t j = 0;
                while (j < width && key[j] == columns[j][from + i]) j++;
                if (j == width) break;
            }
            if (slots[at].code < 0 && add) {
                int result = word_index_room(index);
                if (result) return result;
                slots = index->slots, mask = ((size_t)1 << index->bits) - 1, at = slot_of(hash[i], 64 - index->bits);
                while (slots[at].code >= 0) at = (at + 1) & mask;
                slots[at] = (tag_slot){(uint32_t)hash[i], (int32_t)index->size};
                for (size_t j = 0; j < width; j++)
                    ((int64_t *)index->words.start)[index->size * width + j] = columns[j][from + i];
                index->size++;
            }
            codes[from + i] = slots[at].code;
        }
    }
    return DONE;
}

/* --- keys of bytes ---------------------------------------------------------------------------------------------- */

typedef struct {
    shared base;
    int bits;
    size_t size;
    int32_t null_code; /* -1: no null yet */
    size_t used;       /* bytes of the keys */
    block bytes, ends; /* the keys, one after another, and where each ends: size of int64 */
    tag_slot *slots;
} byte_index;

static uint64_t hash_bytes(const char *bytes, size_t n) {
    uint64_t hash = n, word;
    for (; n >= 8; n -= 8, bytes += 8) {
        memcpy(&word, bytes, 8);
        hash = mix_word(hash, word);
    }
    word = 0;
    memcpy(&word, bytes, n);
    return mix_word(hash, word);
}

INLINE int64_t begin_of(const byte_index *index, size_t code) { return code ? ((const int64_t *)index->ends.start)[code - 1] : 0; }
INLINE int64_t end_of(const byte_index *index, size_t code) { return ((const int64_t *)index->ends.start)[code]; }

static int byte_index_grow(byte_index *index) {
    int bits = index->bits + 1;
    size_t mask = ((size_t)1 << bits) - 1;
    tag_slot *slots = new_slots(bits, sizeof *slots);
    if (!slots) return NO_MEMORY;
    for (size_t c = 0; c < index->size; c++) {
        if ((int32_t)c == index->null_code) continue;
        uint64_t hash = hash_bytes(index->bytes.start + begin_of(index, c), (size_t)(end_of(index, c) - begin_of(index, c)));
        size_t at = slot_of(hash, 64 - bits);
        while (slots[at].code >= 0) at = (at + 1) & mask;
        slots[at] = (tag_slot){(uint32_t)hash, (int32_t)c};
    }
    free(index->slots);
    index->slots = slots, index->bits = bits;
    return DONE;
}

/* Appends a key, without its slot. */
static int append_bytes(byte_index *index, const char *bytes, size_t n) {
    if (index->size == INT32_MAX) return TOO_MANY;
    if (index->used + n > index->bytes.bytes && block_grow(&index->bytes, 2 * (index->used + n) + 1024)) return NO_MEMORY;
    if ((index->size + 1) * 8 > index->ends.bytes && block_grow(&index->ends, 16 * (index->size + 1) + 1024)) return NO_MEMORY;
    if (is_full(index->size + 1, index->bits) && byte_index_grow(index)) return NO_MEMORY;
    if (n) memcpy(index->bytes.start + index->used, bytes, n);
    index->used += n;
    ((int64_t *)index->ends.start)[index->size++] = (int64_t)index->used;
    return DONE;
}

/* The i-th of offsets of 4 or 8 bytes. */
INLINE int64_t offset_at(const void *offsets, size_t size, size_t i) {
    return size == 4 ? ((const int32_t *)offsets)[i] : ((const int64_t *)offsets)[i];
}

/* The codes of the byte strings between offsets of 4 or 8 bytes. valid (may be NULL): a byte for each, 0 for null. */
static int encode_bytes(byte_index *index, const void *offsets, size_t offset_size, const char *data, const char *valid, size_t n,
                        int32_t *codes, int add) {
    const char *last = NULL; /* that of the row before, unless it is null: equal keys often follow each other */
    size_t last_length = 0;
    for (size_t i = 0; i < n; i++) {
        if (valid && !valid[i]) {
            last = NULL;
            if (index->null_code < 0 && add) {
                int result = append_bytes(index, NULL, 0);
                if (result) return result;
                index->null_code = (int32_t)index->size - 1;
            }
            codes[i] = index->null_code;
            continue;
        }
        const char *bytes = data + offset_at(offsets, offset_size, i);
        size_t length = (size_t)(offset_at(offsets, offset_size, i + 1) - offset_at(offsets, offset_size, i));
        if (last && length == last_length && memcmp(last, bytes, length) == 0) {
            codes[i] = codes[i - 1];
            continue;
        }
        last = bytes, last_length = length;
        size_t mask = ((size_t)1 << index->bits) - 1;
        uint64_t hash = hash_bytes(bytes, length);
        size_t at = slot_of(hash, 64 - index->bits);
        for (; index->slots[at].code >= 0; at = (at + 1) & mask) {
            size_t code = (size_t)index->slots[at].code;
            if (index->slots[at].tag != (uint32_t)hash || end_of(index, code) - begin_of(index, code) != (int64_t)length) continue;
            if (length == 0 || memcmp(index->bytes.start + begin_of(index, code), bytes, length) == 0) break;
        }
        if (index->slots[at].code < 0 && add) {
            int result = append_bytes(index, bytes, length);
            if (result) return result;
            mask = ((size_t)1 << index->bits) - 1, at = slot_of(hash, 64 - index->bits);
            while (index->slots[at].code >= 0) at = (at + 1) & mask;
            index->slots[at] = (tag_slot){(uint32_t)hash, (int32_t)index->size - 1};
        }
        codes[i] = index->slots[at].code;
    }
    return DONE;
}
