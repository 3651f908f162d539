/* The Python type of rows of numbers that wait to be summed together. */

#define PENDING_ROWS 1024

typedef struct {
    PyObject_HEAD
    double *values; /* row by row; all rows have the same columns */
    int size, room;
} RowsObject;

static PyTypeObject *RowsType;

static void Rows_dealloc(PyObject *object) {
    free(((RowsObject *)object)->values);
    free_object(object);
}

/* What a number is exactly, or -1 and an error. */
static double exact_number(PyObject *object, PyObject *x) {
    if (PyFloat_Check(x)) return PyFloat_AsDouble(x);
    PyObject *exact = PyObject_CallMethod(object, "_to_float_exact", "(O)", x);
    if (!exact) return -1.0;
    double value = PyFloat_AsDouble(exact);
    Py_DECREF(exact);
    return value;
}

/* Adds a row: a value, or one and a weight. A weight that is negative or not finite is first shown to _check_row. */
static PyObject *add_row(PyObject *object, PyObject *const *row, Py_ssize_t n) {
    RowsObject *self = (RowsObject *)object;
    double values[2];
    for (Py_ssize_t i = 0; i < n; i++) {
        values[i] = exact_number(object, row[i]);
        if (values[i] == -1.0 && PyErr_Occurred()) return NULL;
    }
    if (n > 1 && !(values[1] >= 0.0 && values[1] < INFINITY)) {
        PyObject *none = PyObject_CallMethod(object, "_check_row", "(dd)", values[0], values[1]);
        if (!none) return NULL;
        Py_DECREF(none);
    }
    if (self->size + (int)n > self->room) {
        int room = self->room ? 2 * self->room : 4 * (int)n;
        double *grown = realloc(self->values, (size_t)room * sizeof *grown);
        if (!grown) return PyErr_NoMemory();
        self->values = grown, self->room = room;
    }
    memcpy(self->values + self->size, values, (size_t)n * sizeof *values);
    self->size += (int)n;
    if (self->size >= PENDING_ROWS * (int)n) return PyObject_CallMethod(object, "_settle", NULL);
    Py_RETURN_NONE;
}

static PyObject *Rows_add(PyObject *object, PyObject *x) { return add_row(object, &x, 1); }

static PyObject *Rows_add_weighted(PyObject *object, PyObject *const *row, Py_ssize_t n) {
    if (n != 2) return PyErr_Format(PyExc_TypeError, "expected 2 numbers, found %zd", n);
    return add_row(object, row, 2);
}

/* The rows that wait, as the bytes of their values; they wait until they are dropped. */
static PyObject *Rows_waiting(PyObject *object, PyObject *ignored) {
    (void)ignored;
    const RowsObject *self = (const RowsObject *)object;
    return PyBytes_FromStringAndSize((const char *)self->values, self->size * (Py_ssize_t)sizeof(double));
}

/* Drops the first rows: those that were given as these bytes. */
static PyObject *Rows_drop(PyObject *object, PyObject *bytes) {
    RowsObject *self = (RowsObject *)object;
    Py_ssize_t n = PyBytes_Size(bytes) / (Py_ssize_t)sizeof(double);
    if (n < 0 || n > self->size) return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "expected rows that wait");
    self->size -= (int)n;
    if (self->size) {
        memmove(self->values, self->values + n, (size_t)self->size * sizeof *self->values);
    } else {
        free(self->values);
        self->values = NULL, self->room = 0;
    }
    Py_RETURN_NONE;
}

static PyMethodDef Rows_methods[] = {
    {"add", Rows_add, METH_O, "Adds one number."},
    {"_add_weighted", (PyCFunction)(void (*)(void))Rows_add_weighted, METH_FASTCALL, NULL},
    {"_waiting_rows", Rows_waiting, METH_NOARGS, NULL},
    {"_drop_rows", Rows_drop, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Rows_slots[] = {{Py_tp_dealloc, Rows_dealloc}, {Py_tp_methods, Rows_methods}, {0, NULL}};

static PyType_Spec Rows_spec = {
    "lse_stream._kernel.native.Rows", sizeof(RowsObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, Rows_slots,
};
