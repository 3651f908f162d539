/* Buffers of Python objects: opening and closing them, and the error or None that a call ends with. */

static PyObject *merge_error(void) {
    PyErr_SetString(PyExc_OverflowError, "the count of a merged state exceeds 2^63 - 1");
    return NULL;
}

/* Opens n contiguous buffers; '*' marks one to write. All or none are open after it. */
static int open_buffers(PyObject *args, const char *modes, Py_buffer *views) {
    Py_ssize_t n = (Py_ssize_t)strlen(modes);
    if (PyTuple_Size(args) != n) {
        PyErr_Format(PyExc_TypeError, "expected %zd arrays, found %zd", n, PyTuple_Size(args));
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        if (PyObject_GetBuffer(PyTuple_GetItem(args, i), views + i, modes[i] == '*' ? PyBUF_CONTIG : PyBUF_CONTIG_RO)) {
            while (i--) PyBuffer_Release(views + i);
            return -1;
        }
    return 0;
}

static void close_buffers(Py_buffer *views, int n) {
    for (int i = 0; i < n; i++) PyBuffer_Release(views + i);
}

static PyObject *outcome(int result) {
    switch (result) {
    case DONE: Py_RETURN_NONE;
    case NO_MEMORY: return PyErr_NoMemory();
    case COUNT_OVERFLOW: return merge_error();
    case TOO_MANY: PyErr_SetString(PyExc_OverflowError, "more than 2^31 - 1 distinct keys"); return NULL;
    default: PyErr_SetString(PyExc_IndexError, "a code is not in [0, number of groups)"); return NULL;
    }
}

#define LENGTH(view, type) ((size_t)(view).len / sizeof(type))

static PyObject *mismatch(Py_buffer *views, int n) {
    close_buffers(views, n);
    PyErr_SetString(PyExc_ValueError, "arrays of different lengths");
    return NULL;
}

static PyObject *finished(Py_buffer *views, int n, int result) {
    close_buffers(views, n);
    return outcome(result);
}

#define SCALE_OF(view) (*(const scale *)(view).buf)
