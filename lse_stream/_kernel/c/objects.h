/* Python objects: their memory, and that one thread at a time changes what lives from batch to batch. */

static PyObject *allocate_object(PyTypeObject *type) {
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    return alloc(type, 0); /* all zero */
}

static void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release_memory = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release_memory(self);
    Py_DECREF(type);
}

/* More than one thread may look keys up, and only one may add some. */
typedef struct {
    PyObject_HEAD
    int users; /* how many look keys up; -1 while some are added */
} shared;

static int acquire(shared *s, int exclusive) {
    if (s->users < 0 || (exclusive && s->users)) return BUSY;
    s->users = exclusive ? -1 : s->users + 1;
    return DONE;
}

static void release(shared *s, int exclusive) { s->users = exclusive ? 0 : s->users - 1; }
