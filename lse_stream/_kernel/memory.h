/* What functions that may fail return, and memory. */

enum { DONE, NO_MEMORY, COUNT_OVERFLOW, BAD_CODE, TOO_MANY, MISMATCH, BUSY };

/* Large tables of slots are visited at random: huge pages save most of the address translation. */
static void advise_huge_pages(void *memory, size_t size) {
#ifdef MADV_HUGEPAGE
    size_t page = (size_t)1 << 21, begin = ((uintptr_t)memory + page - 1) & ~(page - 1), end = (uintptr_t)memory + size;
    if (size >= 2 * page && end > begin) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)memory, (void)size;
#endif
}

static void *allocate(size_t size) {
    size_t page = (size_t)1 << 21;
    void *memory = NULL;
    if (posix_memalign(&memory, size < 2 * page ? 64 : page, size ? size : 64)) return NULL;
    advise_huge_pages(memory, size);
    return memory;
}

/* Memory that keeps its start at a multiple of 64 when it grows; realloc moves large blocks without a copy. */
typedef struct {
    char *memory, *start;
    size_t bytes;
} block;

static int block_grow(block *b, size_t bytes) {
    char *memory = realloc(b->memory, bytes + 64);
    if (!memory) return NO_MEMORY;
    char *start = (char *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    size_t before = b->memory ? (size_t)(b->start - b->memory) : 0;
    if (b->memory && memory + before != start) memmove(start, memory + before, b->bytes);
    b->memory = memory, b->start = start, b->bytes = bytes;
    return DONE;
}
