/* The Python type of one state. */

typedef struct {
    PyObject_HEAD
    state s;
} StateObject;

static PyTypeObject *StateType;

static PyObject *State_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    StateObject *self = (StateObject *)allocate_object(type);
    if (self) self->s = EMPTY;
    return (PyObject *)self;
}

static PyObject *State_add(PyObject *self, PyObject *x) {
    state *s = &((StateObject *)self)->s;
    if (PyFloat_Check(x)) {
        add(s, PyFloat_AsDouble(x));
        Py_RETURN_NONE;
    }
    PyObject *wide_x = PyObject_CallMethod(self, "_widen", "O", x);
    if (!wide_x) return NULL;
    double value = PyFloat_AsDouble(wide_x);
    Py_DECREF(wide_x);
    if (value == -1.0 && PyErr_Occurred()) return NULL;
    add(s, value);
    Py_RETURN_NONE;
}

static PyObject *State_update(PyObject *self, PyObject *values) {
    Py_buffer view;
    if (PyObject_GetBuffer(values, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) return NULL;
    int is_float = strcmp(view.format, "f") == 0;
    if (!is_float && strcmp(view.format, "d") != 0) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_TypeError, "expected a contiguous array of float64 or float32");
        return NULL;
    }
    state part = EMPTY; /* not the object's own: other threads may run meanwhile */
    WITHOUT_GIL(1, (is_float ? add_all_float(&part, view.buf, LENGTH(view, float))
                             : add_all(&part, view.buf, LENGTH(view, double)), DONE));
    PyBuffer_Release(&view);
    return outcome(merge(&((StateObject *)self)->s, part));
}

static PyObject *State_merge(PyObject *self, PyObject *other) {
    if (!PyObject_TypeCheck(other, StateType)) {
        PyErr_Format(PyExc_TypeError, "expected a state to merge, found %R", Py_TYPE(other));
        return NULL;
    }
    return outcome(merge(&((StateObject *)self)->s, ((StateObject *)other)->s));
}

static PyObject *State_value(PyObject *self, PyObject *ignored) {
    (void)ignored;
    record r;
    double value;
    store(&r, &((StateObject *)self)->s);
    values_of(&r, 1, &value);
    return PyFloat_FromDouble(value);
}

static PyObject *State_to_bytes(PyObject *self, PyObject *ignored) {
    (void)ignored;
    record r;
    store(&r, &((StateObject *)self)->s);
    return PyBytes_FromStringAndSize((const char *)&r, sizeof r);
}

/* Becomes the state of a record, or returns its fault, a key of FAULTS. */
static PyObject *State_load(PyObject *self, PyObject *bytes) {
    if (!PyBytes_Check(bytes) || PyBytes_Size(bytes) != sizeof(record)) {
        PyErr_SetString(PyExc_ValueError, "expected the bytes of one record");
        return NULL;
    }
    const record *r = (const record *)PyBytes_AsString(bytes);
    int fault = fault_of(r, NATURAL, 0);
    if (fault != NO_FAULT) return PyLong_FromLong(fault);
    ((StateObject *)self)->s = load(r);
    Py_RETURN_NONE;
}

static PyObject *State_count(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromLongLong(((StateObject *)self)->s.count);
}

static PyObject *State_max(PyObject *self, void *closure) {
    (void)closure;
    return PyFloat_FromDouble(((StateObject *)self)->s.max);
}

static PyMethodDef State_methods[] = {
    {"add", State_add, METH_O, "Adds one number."},
    {"merge", State_merge, METH_O, "Adds all that another state contains; the other is left as it is."},
    {"value", State_value, METH_NOARGS, "The log-sum-exp, rounded once."},
    {"to_bytes", State_to_bytes, METH_NOARGS, "The canonical record."},
    {"_update", State_update, METH_O, NULL},
    {"_load", State_load, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef State_getset[] = {
    {"count", State_count, NULL, "How many terms were added.", NULL},
    {"max", State_max, NULL, "The largest term's logarithm; -inf where there is none.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot State_slots[] = {
    {Py_tp_new, State_new}, {Py_tp_dealloc, free_object}, {Py_tp_methods, State_methods}, {Py_tp_getset, State_getset}, {0, NULL},
};

static PyType_Spec State_spec = {
    "lse_stream._kernel.native.State", sizeof(StateObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, State_slots,
};
