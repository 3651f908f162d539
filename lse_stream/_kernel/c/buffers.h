/* Buffers of Python objects: opening and closing them, and the error or None that a call ends with. */

static int is_aligned(const Py_buffer *view) {
    uintptr_t at = (uintptr_t)view->buf;
    return at % sizeof(uint64_t) == 0 || (view->itemsize && at % (uintptr_t)view->itemsize == 0);
}

/* Opens a contiguous buffer whose items lie where C may read them: where an array's do not, that of its copy. */
static int open_buffer(PyObject *array, Py_buffer *view, int flags) {
    if (PyObject_GetBuffer(array, view, flags)) return -1;
    if (is_aligned(view)) return 0;
    PyBuffer_Release(view);
    if (flags & PyBUF_WRITABLE) {
        PyErr_SetString(PyExc_ValueError, "expected an aligned array to write to");
        return -1;
    }
    PyObject *copy = PyObject_CallMethod(array, "copy", NULL);
    int result = copy ? PyObject_GetBuffer(copy, view, flags) : -1;
    Py_XDECREF(copy); /* the view has it now */
    return result;
}

/* Opens n contiguous buffers, to read or, where the mode is '*', to write. All or none are open after it. */
static int open_each(PyObject *arrays, Py_ssize_t n, const char *modes, Py_buffer *views) {
    for (Py_ssize_t i = 0; i < n; i++) {
        int flags = modes && modes[i] == '*' ? PyBUF_CONTIG : PyBUF_CONTIG_RO;
        if (open_buffer(PyTuple_GetItem(arrays, i), views + i, flags)) {
            while (i--) PyBuffer_Release(views + i);
            return -1;
        }
    }
    return 0;
}

/* Opens as many contiguous buffers as there are modes. */
static int open_buffers(PyObject *arrays, const char *modes, Py_buffer *views) {
    Py_ssize_t n = (Py_ssize_t)strlen(modes);
    if (PyTuple_Size(arrays) == n) return open_each(arrays, n, modes, views);
    PyErr_Format(PyExc_TypeError, "expected %zd arrays, found %zd", n, PyTuple_Size(arrays));
    return -1;
}

static void close_buffers(Py_buffer *views, size_t n) {
    for (size_t i = 0; i < n; i++) PyBuffer_Release(views + i);
}

/* None for DONE; else NULL, with the error of that result. */
static PyObject *outcome(int result) {
    switch (result) {
    case DONE: Py_RETURN_NONE;
    case NO_MEMORY: return PyErr_NoMemory();
    case COUNT_OVERFLOW: PyErr_SetString(PyExc_OverflowError, "the count of a merged state exceeds 2^63 - 1"); return NULL;
    case BAD_SUM: PyErr_SetString(PyExc_ValueError, "a stored sum that cannot be read"); return NULL;
    case TOO_MANY: PyErr_SetString(PyExc_OverflowError, "more than 2^31 - 1 distinct keys"); return NULL;
    case MISMATCH: PyErr_SetString(PyExc_ValueError, "arrays of different lengths, or of other items than expected"); return NULL;
    case BUSY: PyErr_SetString(PyExc_RuntimeError, "used by two threads at once"); return NULL;
    default: PyErr_SetString(PyExc_IndexError, "a code is not in [0, number of groups)"); return NULL;
    }
}

#define LENGTH(view, type) ((size_t)(view).len / sizeof(type))

static int has_items(const Py_buffer *view, size_t n, size_t size) {
    return (size_t)view->itemsize == size && (size_t)view->len == n * size;
}

/* The result of work, done without the GIL where the lengths of the arrays fit; else MISMATCH. */
#define WITHOUT_GIL(fits, work)    \
    ({                             \
        int result_ = MISMATCH;    \
        if (fits) {                \
            Py_BEGIN_ALLOW_THREADS \
            result_ = (work);      \
            Py_END_ALLOW_THREADS   \
        }                          \
        result_;                   \
    })

/* The result of work, done without the GIL on an object that it acquires; BUSY where another thread uses that. Whether the
   arrays fit is asked once it is acquired: that may depend on the object. */
#define WHILE_USED(object, exclusive, fits, work)  \
    ({                                             \
        int used_ = acquire(object, exclusive);    \
        if (used_ == DONE) {                       \
            used_ = WITHOUT_GIL(fits, work);       \
            release(object, exclusive);            \
        }                                          \
        used_;                                     \
    })

static PyObject *finished(Py_buffer *views, size_t n, int result) {
    close_buffers(views, n);
    return outcome(result);
}

#define SCALE_OF(view) (*(const scale *)(view).buf)

/* Whether a buffer contains the offsets of n byte strings, of 4 or 8 bytes each. */
static int are_offsets(const Py_buffer *view, size_t n) {
    size_t item = (size_t)view->itemsize;
    return (item == 4 || item == 8) && (size_t)view->len == (n + 1) * item;
}

/* The words of sums by group, which are freed; the buffers are closed. */
static PyObject *finished_sums(Py_buffer *views, size_t n, int result, buffer *sums) {
    close_buffers(views, n);
    Py_ssize_t bytes = (Py_ssize_t)(sums->size * sizeof(uint64_t));
    PyObject *words = result == DONE ? PyBytes_FromStringAndSize((const char *)sums->data, bytes) : outcome(result);
    free(sums->data);
    return words;
}
