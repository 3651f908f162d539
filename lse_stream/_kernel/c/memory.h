/* Results of functions that may fail, and memory. */

enum { DONE, NO_MEMORY, COUNT_OVERFLOW, BAD_CODE, BAD_SUM, TOO_MANY, MISMATCH, BUSY };

#define CACHE_LINE 64
#define HUGE_PAGE ((size_t)1 << 21) /* of x86-64, and most often of ARM64 */

/* Large tables of slots are visited at random: huge pages save most of the address translation. */
static void advise_huge_pages(void *memory, size_t size) {
#ifdef MADV_HUGEPAGE
    size_t page = HUGE_PAGE, begin = ((uintptr_t)memory + page - 1) & ~(page - 1), end = (uintptr_t)memory + size;
    if (size >= 2 * page && end > begin) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)memory, (void)size;
#endif
}

/* Memory at a multiple of CACHE_LINE, for free(); NULL where there is none. */
static void *allocate(size_t size) {
    void *memory = NULL;
    if (posix_memalign(&memory, size < 2 * HUGE_PAGE ? CACHE_LINE : HUGE_PAGE, size ? size : CACHE_LINE)) return NULL;
    advise_huge_pages(memory, size);
    return memory;
}

/* Memory that keeps its start at a multiple of CACHE_LINE when it grows; realloc moves large blocks without a copy. */
typedef struct {
    char *memory, *start;
    size_t bytes;
} block;

static int block_grow(block *b, size_t bytes) {
    char *memory = realloc(b->memory, bytes + CACHE_LINE);
    if (!memory) return NO_MEMORY;
    char *start = (char *)(((uintptr_t)memory + CACHE_LINE - 1) & ~(uintptr_t)(CACHE_LINE - 1));
    size_t before = b->memory ? (size_t)(b->start - b->memory) : 0;
    if (b->memory && memory + before != start) memmove(start, memory + before, b->bytes);
    b->memory = memory, b->start = start, b->bytes = bytes;
    return DONE;
}
