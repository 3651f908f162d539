/* The Python type of one state. */

typedef struct {
    PyObject_HEAD
    state s;
    scale c;      /* of the terms e^(c x) */
    int descends; /* whether x is negated first */
    int is_plain; /* whether the terms are e^x of x as it is, which has faster loops */
} StateObject;

static PyTypeObject *StateType;

static PyObject *State_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    StateObject *self = (StateObject *)allocate_object(type);
    if (self) self->s = EMPTY, self->c = NATURAL, self->is_plain = 1;
    return (PyObject *)self;
}

/* (high, low, descends): from now on the terms are e^(c x), c = high + low, with x negated first where it descends. */
static PyObject *State_use_scale(PyObject *object, PyObject *args) {
    StateObject *self = (StateObject *)object;
    scale c;
    int descends;
    if (!PyArg_ParseTuple(args, "ddp", &c.high, &c.low, &descends)) return NULL;
    if (self->s.count) {
        PyErr_SetString(PyExc_ValueError, "the scale of a state that is not empty cannot change");
        return NULL;
    }
    self->c = c, self->descends = descends, self->is_plain = is_natural(c) && !descends;
    Py_RETURN_NONE;
}

static PyObject *add_value(StateObject *self, double x) {
    if (__builtin_expect(self->s.count == INT64_MAX, 0)) return outcome(COUNT_OVERFLOW);
    add(&self->s, self->descends ? -x : x, self->c);
    Py_RETURN_NONE;
}

static PyObject *State_add(PyObject *object, PyObject *x) {
    StateObject *self = (StateObject *)object;
    double value = exact_number(object, x);
    if (value == -1.0 && PyErr_Occurred()) return NULL;
    return add_value(self, value);
}

/* Adds n values of float64 or float32. */
static void add_array(state *s, const void *values, int is_float, size_t n, const StateObject *like) {
    if (like->is_plain && is_float) {
        add_all_float(s, values, n);
    } else if (like->is_plain) {
        add_all(s, values, n);
    } else {
        double x[ROWS];
        products p;
        for (size_t i = 0; i < n; i += ROWS) {
            size_t size = n - i < ROWS ? n - i : ROWS;
            for (size_t j = 0; j < size; j++) {
                x[j] = is_float ? ((const float *)values)[i + j] : ((const double *)values)[i + j];
                x[j] = like->descends ? -x[j] : x[j];
            }
            add_scaled_run(s, x, size, like->c, &p);
        }
    }
}

static PyObject *State_update(PyObject *object, PyObject *values) {
    StateObject *self = (StateObject *)object;
    Py_buffer view;
    if (open_buffer(values, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) return NULL;
    int is_float = strcmp(view.format, "f") == 0;
    if (!is_float && strcmp(view.format, "d") != 0) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_TypeError, "expected a contiguous array of float64 or float32");
        return NULL;
    }
    size_t n = is_float ? LENGTH(view, float) : LENGTH(view, double);
    state part = EMPTY; /* not the object's own: other threads may run meanwhile */
    WITHOUT_GIL(1, (add_array(&part, view.buf, is_float, n, self), DONE));
    PyBuffer_Release(&view);
    return outcome(merge(&self->s, part, self->c));
}

static int is_on_scale_of(const StateObject *self, const StateObject *other) {
    return self->c.high == other->c.high && self->c.low == other->c.low && self->descends == other->descends;
}

static PyObject *State_refuse_merge(PyObject *object, PyObject *other) {
    (void)object;
    return PyErr_Format(PyExc_TypeError, "expected a state on the same scale to merge, found %R", Py_TYPE(other));
}

/* What does not merge is refused by a method, so that a subclass can say more of both. */
static PyObject *State_merge(PyObject *object, PyObject *other) {
    StateObject *self = (StateObject *)object;
    const StateObject *added = (const StateObject *)other;
    if (!PyObject_TypeCheck(other, StateType) || !is_on_scale_of(self, added))
        return PyObject_CallMethod(object, "_refuse_merge", "(O)", other);
    return outcome(merge(&self->s, added->s, self->c));
}

static PyObject *State_value(PyObject *object, PyObject *ignored) {
    (void)ignored;
    const StateObject *self = (const StateObject *)object;
    if (!self->is_plain) {
        PyErr_SetString(PyExc_ValueError, "the kernel's value is for the natural scale alone");
        return NULL;
    }
    record r;
    double value;
    store(&r, &self->s);
    values_of(&r, 1, &value);
    return PyFloat_FromDouble(value);
}

/* A stored record: the head and the check in its first word. */
typedef union {
    struct {
        uint64_t head;
        record sum;
    } parts;
    uint64_t words[1 + sizeof(record) / 8];
} sealed_record;

static const int64_t SEALED[] = {0, sizeof(sealed_record) / 8};

static PyObject *State_to_bytes(PyObject *object, PyObject *ignored) {
    (void)ignored;
    const StateObject *self = (const StateObject *)object;
    if (!self->is_plain) {
        PyErr_SetString(PyExc_ValueError, "the kernel's record is for the natural scale alone");
        return NULL;
    }
    sealed_record r;
    r.parts.head = VERSION; /* aggregation and scale 0: log-sum-exp, natural */
    store(&r.parts.sum, &self->s);
    seal_records(r.words, SEALED, 1);
    return PyBytes_FromStringAndSize((const char *)&r, sizeof r);
}

/* The sum, as arrays contain it. */
static PyObject *State_sum(PyObject *object, PyObject *ignored) {
    (void)ignored;
    record r;
    store(&r, &((StateObject *)object)->s);
    return PyBytes_FromStringAndSize((const char *)&r, sizeof r);
}

/* Becomes the state of a record on the natural scale; False, and nothing else, where it is none. */
static PyObject *State_load(PyObject *object, PyObject *bytes) {
    StateObject *self = (StateObject *)object;
    sealed_record r;
    if (!PyBytes_Check(bytes) || PyBytes_Size(bytes) != sizeof r) Py_RETURN_FALSE;
    memcpy(&r, PyBytes_AsString(bytes), sizeof r);
    if ((uint32_t)r.parts.head != VERSION || find_damage(r.words, SEALED, 1) == 0 || fault_of(&r.parts.sum, NATURAL) != NO_FAULT)
        Py_RETURN_FALSE;
    self->s = load(&r.parts.sum, NATURAL);
    Py_RETURN_TRUE;
}

/* Becomes the state of a sum that is known to be canonical. */
static PyObject *State_set_sum(PyObject *object, PyObject *bytes) {
    StateObject *self = (StateObject *)object;
    if (!PyBytes_Check(bytes) || PyBytes_Size(bytes) != sizeof(record)) {
        PyErr_SetString(PyExc_ValueError, "expected the bytes of one sum");
        return NULL;
    }
    self->s = load((const record *)PyBytes_AsString(bytes), self->c);
    Py_RETURN_NONE;
}

static PyObject *State_count(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromLongLong(((StateObject *)self)->s.count);
}

static PyObject *State_max(PyObject *object, void *closure) {
    (void)closure;
    const StateObject *self = (const StateObject *)object;
    return PyFloat_FromDouble(self->descends ? 0.0 - self->s.max : self->s.max); /* 0.0, not -0.0 */
}

static PyMethodDef State_methods[] = {
    {"add", State_add, METH_O, "Adds one number."},
    {"merge", State_merge, METH_O, "Adds all that another state contains; the other is left as it is. Raises TypeError or StateError for what does not merge."},
    {"value", State_value, METH_NOARGS, "The log-sum-exp, rounded once."},
    {"to_bytes", State_to_bytes, METH_NOARGS, "The canonical record."},
    {"_use_scale", State_use_scale, METH_VARARGS, NULL},
    {"_refuse_merge", State_refuse_merge, METH_O, NULL},
    {"_update", State_update, METH_O, NULL},
    {"_load", State_load, METH_O, NULL},
    {"_sum", State_sum, METH_NOARGS, NULL},
    {"_set_sum", State_set_sum, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef State_getset[] = {
    {"count", State_count, NULL, "How many terms were added.", NULL},
    {"max", State_max, NULL, "The value of the largest term; without one -inf, or inf on a scale that descends.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot State_slots[] = {
    {Py_tp_new, State_new}, {Py_tp_dealloc, free_object}, {Py_tp_methods, State_methods}, {Py_tp_getset, State_getset}, {0, NULL},
};

static PyType_Spec State_spec = {
    "lse_stream._kernel.native.State", sizeof(StateObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, State_slots,
};
