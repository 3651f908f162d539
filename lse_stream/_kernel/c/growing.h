/* The Python types of what lives from batch to batch: indexes of keys, and the states of groups whose number grows. */

enum layout { SLOTS, STATES, WEIGHTED };

/* The items of each: slots sum e^x, states e^(c x), weighted sums w e^(c x). */
typedef struct {
    shared base;
    enum layout layout;
    scale c;
    slots slots; /* the number of groups in any layout, and what the slots have besides */
    block memory;
    int64_t most; /* that no count exceeds, though all may be smaller */
} groups;

static const size_t SIZE_OF[] = {sizeof(group_slot), sizeof(state), sizeof(weighted)};

/* Makes room for n groups; new ones are empty. */
static int groups_grow(groups *g, size_t n) {
    size_t item = SIZE_OF[g->layout];
    if (n <= g->slots.size) return DONE;
    if (n * item > g->memory.bytes && block_grow(&g->memory, (n + n / 2 + 64) * item)) return NO_MEMORY;
    for (size_t i = g->slots.size; i < n; i++) {
        if (g->layout == SLOTS) ((group_slot *)g->memory.start)[i] = EMPTY_SLOT;
        if (g->layout == STATES) ((state *)g->memory.start)[i] = EMPTY;
        if (g->layout == WEIGHTED) ((weighted *)g->memory.start)[i] = NOTHING;
    }
    g->slots.slot = (group_slot *)g->memory.start;
    g->slots.size = n;
    return DONE;
}

static int groups_export(const groups *g, void *out) {
    if (g->layout == SLOTS) return store_slots(out, &g->slots);
    for (size_t i = 0; i < g->slots.size; i++) {
        if (g->layout == STATES) store((record *)out + i, (const state *)g->memory.start + i);
        if (g->layout == WEIGHTED) store_weighted((weighted_record *)out + i, (const weighted *)g->memory.start + i);
    }
    return DONE;
}

static int64_t count_of(const groups *g, size_t i) {
    if (g->layout == STATES) return ((const state *)g->memory.start)[i].count;
    if (g->layout == WEIGHTED) return ((const weighted *)g->memory.start)[i].count;
    const group_slot *slot = g->slots.slot + i;
    const state *apart = apart_of(&g->slots, i);
    return (int64_t)slot->ties + slot->others + (apart ? apart->count : 0);
}

/* How many terms item i has, which is a state, or a row where there are no states. */
static int64_t terms_of(const groups *g, const void *states, size_t i) {
    if (!states) return 1;
    return g->layout == WEIGHTED ? ((const weighted_record *)states)[i].count : ((const record *)states)[i].count;
}

/* Whether n items can be added to the groups of their codes, of which there are size from then on; else COUNT_OVERFLOW. The
   groups are looked at only where more than what all items have in all might be too many for one. */
static int take_counts(groups *g, const int32_t *codes, const void *states, size_t n, size_t size) {
    int64_t most = g->most;
    int overflows = 0;
    if (states)
        for (size_t i = 0; i < n; i++) overflows |= __builtin_add_overflow(most, terms_of(g, states, i), &most);
    else
        overflows = __builtin_add_overflow(most, (int64_t)n, &most);
    if (overflows) {
        int64_t *counts = calloc(size, sizeof *counts);
        if (!counts) return NO_MEMORY;
        for (size_t i = 0; i < g->slots.size; i++) counts[i] = count_of(g, i);
        overflows = 0;
        for (size_t i = 0; i < n; i++) {
            int64_t *count = counts + codes[i];
            overflows |= __builtin_add_overflow(*count, terms_of(g, states, i), count);
        }
        most = 0;
        for (size_t i = 0; i < size; i++) most = counts[i] > most ? counts[i] : most;
        free(counts);
    }
    if (overflows) return COUNT_OVERFLOW;
    g->most = most;
    return DONE;
}

INLINE size_t record_size(const groups *g) { return g->layout == WEIGHTED ? sizeof(weighted_record) : sizeof(record); }

/* --- Python types ----------------------------------------------------------------------------------------------- */

static PyObject *WordIndex_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    Py_ssize_t width;
    if (!PyArg_ParseTuple(args, "n", &width)) return NULL;
    if (width < 1) return PyErr_Format(PyExc_ValueError, "expected keys of one word or more, found %zd", width);
    word_index *self = (word_index *)allocate_object(type);
    if (!self) return NULL;
    self->width = (size_t)width, self->bits = LEAST_BITS;
    if (!(self->slots = new_slots(self->bits, width == 1 ? sizeof(word_slot) : sizeof(tag_slot)))) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void WordIndex_dealloc(PyObject *object) {
    word_index *self = (word_index *)object;
    free(self->slots), free(self->words.memory);
    free_object(object);
}

/* Closes the buffers; how many keys there are, or the error. */
static PyObject *size_or_error(Py_buffer *views, size_t n, int result, size_t size) {
    close_buffers(views, n);
    return result == DONE ? PyLong_FromSize_t(size) : outcome(result);
}

/* (columns, codes, add): writes codes; how many keys there are. */
static PyObject *WordIndex_encode(PyObject *object, PyObject *args) {
    word_index *self = (word_index *)object;
    PyObject *columns, *codes;
    int add;
    if (!PyArg_ParseTuple(args, "O!Op", &PyTuple_Type, &columns, &codes, &add)) return NULL;
    size_t width = self->width;
    if ((size_t)PyTuple_Size(columns) != width)
        return PyErr_Format(PyExc_ValueError, "expected %zu columns, found %zd", width, PyTuple_Size(columns));
    Py_buffer out, *views = calloc(width, sizeof *views);
    const int64_t **words = calloc(width, sizeof *words);
    PyObject *size = NULL;
    if (!views || !words) {
        PyErr_NoMemory();
    } else if (!open_each(columns, (Py_ssize_t)width, NULL, views)) {
        if (!PyObject_GetBuffer(codes, &out, PyBUF_CONTIG)) {
            size_t n = LENGTH(out, int32_t);
            int fits = 1;
            for (size_t j = 0; j < width; j++) words[j] = views[j].buf, fits &= LENGTH(views[j], int64_t) == n;
            int result = WHILE_USED(&self->base, add, fits,
                                    width == 1 ? encode_words(self, words[0], n, out.buf, add)
                                               : encode_columns(self, words, n, out.buf, add));
            size = size_or_error(&out, 1, result, self->size);
        }
        close_buffers(views, width);
    }
    free(views), free(words);
    return size;
}

static PyObject *WordIndex_keys(PyObject *object, PyObject *ignored) {
    (void)ignored;
    word_index *self = (word_index *)object;
    if (acquire(&self->base, 0)) return outcome(BUSY);
    PyObject *keys = PyBytes_FromStringAndSize(self->words.start, (Py_ssize_t)(self->size * self->width * 8));
    release(&self->base, 0);
    return keys;
}

static PyObject *WordIndex_nbytes(PyObject *object, void *closure) {
    (void)closure;
    word_index *self = (word_index *)object;
    return PyLong_FromSize_t(self->words.bytes + ((self->width == 1 ? sizeof(word_slot) : sizeof(tag_slot)) << self->bits));
}

static PyObject *ByteIndex_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    byte_index *self = (byte_index *)allocate_object(type);
    if (!self) return NULL;
    self->bits = LEAST_BITS, self->null_code = -1;
    if (!(self->slots = new_slots(self->bits, sizeof(tag_slot)))) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void ByteIndex_dealloc(PyObject *object) {
    byte_index *self = (byte_index *)object;
    free(self->slots), free(self->bytes.memory), free(self->ends.memory);
    free_object(object);
}

/* (offsets, data, valid or none, codes, add): writes codes; how many keys there are. */
static PyObject *ByteIndex_encode(PyObject *object, PyObject *args) {
    byte_index *self = (byte_index *)object;
    PyObject *arrays;
    int add;
    if (!PyArg_ParseTuple(args, "O!p", &PyTuple_Type, &arrays, &add)) return NULL;
    Py_buffer v[4];
    if (open_buffers(arrays, "...*", v)) return NULL;
    size_t n = LENGTH(v[3], int32_t), item = (size_t)v[0].itemsize;
    int fits = are_offsets(&v[0], n) && (!v[2].len || (size_t)v[2].len == n);
    const char *valid = v[2].len ? v[2].buf : NULL;
    int result = WHILE_USED(&self->base, add, fits, encode_bytes(self, v[0].buf, item, v[1].buf, valid, n, v[3].buf, add));
    return size_or_error(v, 4, result, self->size);
}

/* The ends and the bytes of the keys. */
static PyObject *ByteIndex_keys(PyObject *object, PyObject *ignored) {
    (void)ignored;
    byte_index *self = (byte_index *)object;
    if (acquire(&self->base, 0)) return outcome(BUSY);
    const char *ends = self->ends.start ? self->ends.start : "", *bytes = self->bytes.start ? self->bytes.start : "";
    PyObject *keys = Py_BuildValue("y#y#", ends, (Py_ssize_t)(self->size * 8), bytes, (Py_ssize_t)self->used);
    release(&self->base, 0);
    return keys;
}

static PyObject *ByteIndex_null_code(PyObject *object, void *closure) {
    (void)closure;
    return PyLong_FromLong(((byte_index *)object)->null_code);
}

static PyObject *ByteIndex_nbytes(PyObject *object, void *closure) {
    (void)closure;
    byte_index *self = (byte_index *)object;
    return PyLong_FromSize_t(self->bytes.bytes + self->ends.bytes + (sizeof(tag_slot) << self->bits));
}

/* (items, high, low): of "values", "terms" or "weighted" terms; and the scale c = high + low of terms e^(c x). */
static PyObject *Groups_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    const char *items;
    scale c;
    if (!PyArg_ParseTuple(args, "sdd", &items, &c.high, &c.low)) return NULL;
    static const char *const names[] = {"values", "terms", "weighted"};
    for (enum layout layout = SLOTS; layout <= WEIGHTED; layout++) {
        if (strcmp(items, names[layout])) continue;
        groups *self = (groups *)allocate_object(type);
        if (self) self->layout = layout, self->c = c;
        return (PyObject *)self;
    }
    return PyErr_Format(PyExc_ValueError, "expected values, terms or weighted, found %s", items);
}

static void Groups_dealloc(PyObject *object) {
    groups *self = (groups *)object;
    free(self->memory.memory);
    free_slots(&self->slots);
    free_object(object);
}

/* How many groups there are, once there are at least so many. */
INLINE size_t grown_size(size_t groups, Py_ssize_t least) { return least > 0 && (size_t)least > groups ? (size_t)least : groups; }

/* Makes room for the groups of codes; the groups stay as they were where a code is out of range, or a count would be. */
static int groups_take(groups *g, const int32_t *codes, const void *states, size_t n, Py_ssize_t size) {
    size_t wanted = grown_size(g->slots.size, size);
    if (!codes_in_range(codes, n, wanted)) return BAD_CODE;
    int result = take_counts(g, codes, states, n, wanted);
    return result ? result : groups_grow(g, wanted);
}

/* Adds values to the groups of their codes, for which there is room. */
static int groups_add(groups *g, const int32_t *codes, const double *x, const double *weights, size_t n) {
    if (g->layout == STATES) return add_scaled((state *)g->memory.start, codes, x, n, g->c);
    if (g->layout == WEIGHTED) return add_weighted((weighted *)g->memory.start, codes, x, weights, n, g->c);
    return add_values(&g->slots, codes, x, n);
}

static int groups_update(groups *g, const int32_t *codes, const double *x, const double *weights, size_t n, Py_ssize_t size) {
    int result = groups_take(g, codes, NULL, n, size);
    return result ? result : groups_add(g, codes, x, weights, n);
}

/* (codes, values, weights or none, number of groups) */
static PyObject *Groups_update(PyObject *object, PyObject *args) {
    groups *self = (groups *)object;
    PyObject *arrays;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "O!n", &PyTuple_Type, &arrays, &size)) return NULL;
    Py_buffer v[3];
    if (open_buffers(arrays, "...", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t);
    int fits = n == LENGTH(v[1], double) && LENGTH(v[2], double) == (self->layout == WEIGHTED ? n : 0);
    return finished(v, 3, WHILE_USED(&self->base, 1, fits, groups_update(self, v[0].buf, v[1].buf, v[2].buf, n, size)));
}

/* Adds what the lists of smallest values do not keep, so many times its value, to the groups of their codes. */
static int groups_update_others(groups *g, const smallest *from, double times, Py_ssize_t size) {
    int result = groups_take(g, from->other_code, NULL, from->others, size);
    double x[BLOCK];
    for (size_t i = 0; i < from->others && result == DONE; i += BLOCK) {
        size_t n = from->others - i < BLOCK ? from->others - i : BLOCK;
        for (size_t j = 0; j < n; j++) x[j] = times * from->other[i + j];
        result = groups_add(g, from->other_code + i, x, NULL, n);
    }
    return result;
}

static PyTypeObject *SmallestType;

/* (lists of smallest values, times, number of groups) */
static PyObject *Groups_update_others(PyObject *object, PyObject *args) {
    groups *self = (groups *)object;
    PyObject *lists;
    double times;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "O!dn", SmallestType, &lists, &times, &size)) return NULL;
    smallest *from = (smallest *)lists;
    int result = acquire(&from->base, 0);
    if (result == DONE) {
        result = WHILE_USED(&self->base, 1, self->layout != WEIGHTED, groups_update_others(self, from, times, size));
        release(&from->base, 0);
    }
    return outcome(result);
}

/* Merges states into the groups of their codes. */
static int groups_merge(groups *g, const int32_t *codes, const void *states, size_t n, Py_ssize_t size) {
    int result = groups_take(g, codes, states, n, size);
    if (result) return result;
    if (g->layout == SLOTS) return add_records_to_slots(&g->slots, codes, states, n);
    for (size_t i = 0; i < n && result == DONE; i++) {
        const char *ahead = g->memory.start + SIZE_OF[g->layout] * (size_t)codes[i + PREFETCH_STATES < n ? i + PREFETCH_STATES : i];
        __builtin_prefetch(ahead, 1), __builtin_prefetch(ahead + CACHE_LINE, 1);
        result = g->layout == STATES
                     ? merge((state *)g->memory.start + codes[i], load((const record *)states + i, g->c), g->c)
                     : merge_weighted((weighted *)g->memory.start + codes[i], load_weighted((const weighted_record *)states + i));
    }
    return result;
}

/* (codes, states, number of groups): merges states in. */
static PyObject *Groups_merge(PyObject *object, PyObject *args) {
    groups *self = (groups *)object;
    PyObject *arrays;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "O!n", &PyTuple_Type, &arrays, &size)) return NULL;
    Py_buffer v[2];
    if (open_buffers(arrays, "..", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t);
    int fits = has_items(&v[1], n, record_size(self));
    return finished(v, 2, WHILE_USED(&self->base, 1, fits, groups_merge(self, v[0].buf, v[1].buf, n, size)));
}

/* (out): writes the states of the groups. */
static PyObject *Groups_export(PyObject *object, PyObject *args) {
    groups *self = (groups *)object;
    Py_buffer v[1];
    if (open_buffers(args, "*", v)) return NULL;
    return finished(v, 1, WHILE_USED(&self->base, 0, has_items(&v[0], self->slots.size, record_size(self)),
                                     groups_export(self, v[0].buf)));
}

static PyObject *Groups_nbytes(PyObject *object, void *closure) {
    (void)closure;
    const groups *self = (const groups *)object;
    const slots *g = &self->slots;
    return PyLong_FromSize_t(self->memory.bytes + g->room_apart * sizeof *g->apart + g->places * sizeof *g->place);
}

/* (k): how many of the smallest values of each group are kept. */
static PyObject *Smallest_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    Py_ssize_t k;
    if (!PyArg_ParseTuple(args, "n", &k)) return NULL;
    if (k < 1 || k > MOST_SMALLEST) return PyErr_Format(PyExc_ValueError, "expected 1 to %d, found %zd", MOST_SMALLEST, k);
    smallest *self = (smallest *)allocate_object(type);
    if (self) self->k = (size_t)k, self->most = (size_t)(2 * k + 16);
    return (PyObject *)self;
}

static void Smallest_dealloc(PyObject *object) {
    smallest *self = (smallest *)object;
    for (size_t i = 0; i < self->size; i++) free(((value_list *)self->lists.start)[i].value);
    free(self->limits.memory), free(self->lists.memory);
    free(self->other_code), free(self->other);
    free_object(object);
}

/* Makes room for the groups of codes; the groups stay as they were where one is out of range. */
static int smallest_take(smallest *g, const int32_t *codes, size_t n, Py_ssize_t size) {
    size_t wanted = grown_size(g->size, size);
    return codes_in_range(codes, n, wanted) ? smallest_grow(g, wanted) : BAD_CODE;
}

static int smallest_update(smallest *g, const int32_t *codes, const double *x, size_t n, Py_ssize_t size) {
    int result = smallest_take(g, codes, n, size);
    return result ? result : add_small(g, codes, x, n);
}

/* (codes, values, number of groups) */
static PyObject *Smallest_update(PyObject *object, PyObject *args) {
    smallest *self = (smallest *)object;
    PyObject *arrays;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "O!n", &PyTuple_Type, &arrays, &size)) return NULL;
    Py_buffer v[2];
    if (open_buffers(arrays, "..", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t);
    return finished(v, 2, WHILE_USED(&self->base, 1, n == LENGTH(v[1], double), smallest_update(self, v[0].buf, v[1].buf, n, size)));
}

static int smallest_merge(smallest *g, const int32_t *codes, const uint64_t *words, size_t n_words, const int64_t *at, size_t n,
                          Py_ssize_t size) {
    if (!are_lists(words, n_words, at, n, g->k)) return BAD_SUM;
    int result = smallest_take(g, codes, n, size);
    return result ? result : merge_small(g, codes, words, at, n);
}

/* (codes, words, at, number of groups): merges stored lists in. */
static PyObject *Smallest_merge(PyObject *object, PyObject *args) {
    smallest *self = (smallest *)object;
    PyObject *arrays;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "O!n", &PyTuple_Type, &arrays, &size)) return NULL;
    Py_buffer v[3];
    if (open_buffers(arrays, "...", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t);
    return finished(v, 3, WHILE_USED(&self->base, 1, n == LENGTH(v[2], int64_t),
                                     smallest_merge(self, v[0].buf, v[1].buf, LENGTH(v[1], uint64_t), v[2].buf, n, size)));
}

/* (begins): the words of the stored lists; writes where each begins. */
static PyObject *Smallest_export(PyObject *object, PyObject *args) {
    smallest *self = (smallest *)object;
    Py_buffer v[1];
    if (open_buffers(args, "*", v)) return NULL;
    PyObject *words = NULL;
    int result = acquire(&self->base, 1);
    if (result == DONE) {
        if (LENGTH(v[0], int64_t) != self->size + 1)
            result = MISMATCH;
        else if (settle_smallest(self))
            result = NO_MEMORY;
        else if ((words = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(8 * smallest_words(self)))))
            WITHOUT_GIL(1, (store_smallest(self, v[0].buf, (uint64_t *)PyBytes_AsString(words)), DONE));
        release(&self->base, 1);
    }
    close_buffers(v, 1);
    return result == DONE ? words : outcome(result);
}

/* Codes and values of what is not kept, which are gone then. */
static PyObject *Smallest_take_others(PyObject *object, PyObject *ignored) {
    (void)ignored;
    smallest *self = (smallest *)object;
    if (acquire(&self->base, 1)) return outcome(BUSY);
    const char *codes = self->other_code ? (const char *)self->other_code : "", *values = self->other ? (const char *)self->other : "";
    PyObject *taken = Py_BuildValue("y#y#", codes, (Py_ssize_t)(4 * self->others), values, (Py_ssize_t)(8 * self->others));
    if (taken) self->others = 0;
    release(&self->base, 1);
    return taken;
}

static PyObject *Smallest_drop_others(PyObject *object, PyObject *ignored) {
    (void)ignored;
    smallest *self = (smallest *)object;
    return outcome(WHILE_USED(&self->base, 1, 1, (self->others = 0, DONE)));
}

static PyObject *Smallest_nbytes(PyObject *object, void *closure) {
    (void)closure;
    const smallest *self = (const smallest *)object;
    return PyLong_FromSize_t(self->limits.bytes + self->lists.bytes + self->bytes + 12 * self->room);
}

static PyObject *ExactWindows_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    return allocate_object(type);
}

static void ExactWindows_dealloc(PyObject *object) {
    free(((exact_windows *)object)->windows.memory);
    free_object(object);
}

static int windows_update(exact_windows *g, const int32_t *codes, const double *a, const double *b, size_t n, Py_ssize_t size,
                          int64_t *others, size_t *found) {
    size_t wanted = grown_size(g->size, size);
    int result = codes_in_range(codes, n, wanted) ? windows_grow(g, wanted) : BAD_CODE;
    if (result == DONE) *found = add_to_windows(g, codes, a, b, n, others);
    return result;
}

/* ((codes, a, b or none, others), number of groups): how many rows do not fit, which are the first of others. */
static PyObject *ExactWindows_update(PyObject *object, PyObject *args) {
    exact_windows *self = (exact_windows *)object;
    PyObject *arrays;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "O!n", &PyTuple_Type, &arrays, &size)) return NULL;
    Py_buffer v[4];
    if (open_buffers(arrays, "...*", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t), factors_b = LENGTH(v[2], double), found = 0;
    int fits = n == LENGTH(v[1], double) && (!factors_b || factors_b == n) && n == LENGTH(v[3], int64_t);
    const double *b = factors_b ? v[2].buf : NULL;
    int result = WHILE_USED(&self->base, 1, fits, windows_update(self, v[0].buf, v[1].buf, b, n, size, v[3].buf, &found));
    return size_or_error(v, 4, result, found);
}

/* (begins): the words of the sums; the windows are empty then. */
static PyObject *ExactWindows_take(PyObject *object, PyObject *args) {
    exact_windows *self = (exact_windows *)object;
    Py_buffer v[1];
    if (open_buffers(args, "*", v)) return NULL;
    buffer sums = {NULL, 0, 0};
    int result = WHILE_USED(&self->base, 1, LENGTH(v[0], int64_t) == self->size + 1, take_windows(self, v[0].buf, &sums));
    return finished_sums(v, 1, result, &sums);
}

static PyObject *ExactWindows_nbytes(PyObject *object, void *closure) {
    (void)closure;
    return PyLong_FromSize_t(((const exact_windows *)object)->windows.bytes);
}

static PyMethodDef ExactWindows_methods[] = {
    {"update", ExactWindows_update, METH_VARARGS,
     "((codes, a, b, others), groups): adds products to the sums of their codes; writes the rows that do not fit, says how many."},
    {"take", ExactWindows_take, METH_VARARGS, "(begins): the words of the sums, which are empty then; writes where each begins."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef ExactWindows_getset[] = {
    {"nbytes", ExactWindows_nbytes, NULL, "Bytes of memory in use.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef WordIndex_methods[] = {
    {"encode", WordIndex_encode, METH_VARARGS, "(columns, codes, add): writes each key's code, -1 for none; how many there are."},
    {"keys", WordIndex_keys, METH_NOARGS, "The words of all keys, in the order of their codes."},
    {NULL, NULL, 0, NULL},
};
static PyMethodDef ByteIndex_methods[] = {
    {"encode", ByteIndex_encode, METH_VARARGS,
     "((offsets, data, valid, codes), add): writes the code of each byte string or null, -1 for none; how many there are."},
    {"keys", ByteIndex_keys, METH_NOARGS, "Where each key ends, and the bytes of all."},
    {NULL, NULL, 0, NULL},
};
static PyMethodDef Groups_methods[] = {
    {"update", Groups_update, METH_VARARGS, "((codes, values, weights), groups): adds values to the groups of their codes."},
    {"update_others", Groups_update_others, METH_VARARGS,
     "(lists, times, groups): adds what lists of smallest values do not keep, so many times its value."},
    {"merge", Groups_merge, METH_VARARGS, "((codes, states), groups): merges states into the groups of their codes."},
    {"export", Groups_export, METH_VARARGS, "(out): writes the groups' states."},
    {NULL, NULL, 0, NULL},
};
static PyMethodDef Smallest_methods[] = {
    {"update", Smallest_update, METH_VARARGS, "((codes, values), groups): adds values to the groups of their codes."},
    {"merge", Smallest_merge, METH_VARARGS, "((codes, words, at), groups): merges stored lists into the groups of their codes."},
    {"export", Smallest_export, METH_VARARGS, "(begins): the words of the lists; writes where each begins."},
    {"take_others", Smallest_take_others, METH_NOARGS, "Codes and values of what is not, or no longer, in the lists."},
    {"drop_others", Smallest_drop_others, METH_NOARGS, "Forgets these."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef WordIndex_getset[] = {
    {"nbytes", WordIndex_nbytes, NULL, "Bytes of memory in use.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyGetSetDef ByteIndex_getset[] = {
    {"null_code", ByteIndex_null_code, NULL, "The code of null, or -1.", NULL},
    {"nbytes", ByteIndex_nbytes, NULL, "Bytes of memory in use.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyGetSetDef Groups_getset[] = {
    {"nbytes", Groups_nbytes, NULL, "Bytes of memory in use.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyGetSetDef Smallest_getset[] = {
    {"nbytes", Smallest_nbytes, NULL, "Bytes of memory in use.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define GROWING_TYPE(name, struct_of)                                                                                          \
    static PyType_Slot name##_slots[] = {                                                                                      \
        {Py_tp_new, name##_new}, {Py_tp_dealloc, name##_dealloc}, {Py_tp_methods, name##_methods},                             \
        {Py_tp_getset, name##_getset}, {0, NULL},                                                                              \
    };                                                                                                                         \
    static PyType_Spec name##_spec = {"lse_stream._kernel.native." #name, sizeof(struct_of), 0, Py_TPFLAGS_DEFAULT, name##_slots};
GROWING_TYPE(WordIndex, word_index)
GROWING_TYPE(ByteIndex, byte_index)
GROWING_TYPE(Groups, groups)
GROWING_TYPE(Smallest, smallest)
GROWING_TYPE(ExactWindows, exact_windows)

static int add_growing_types(PyObject *module) {
    PyType_Spec *specs[] = {&WordIndex_spec, &ByteIndex_spec, &Groups_spec, &Smallest_spec, &ExactWindows_spec};
    const char *names[] = {"WordIndex", "ByteIndex", "Groups", "Smallest", "ExactWindows"};
    for (int i = 0; i < 5; i++) {
        PyObject *type = PyType_FromSpec(specs[i]);
        int result = type ? PyModule_AddObjectRef(module, names[i], type) : -1;
        if (specs[i] == &Smallest_spec && type) SmallestType = (PyTypeObject *)Py_NewRef(type);
        Py_XDECREF(type);
        if (result) return -1;
    }
    return 0;
}
