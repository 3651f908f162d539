/* The module's functions over arrays. */

INLINE int holds_states(const Py_buffer *view) { return view->itemsize == sizeof(record); }
INLINE int has_weights(const Py_buffer *view) { return view->itemsize == sizeof(weighted_record); }

#define NO_RECORDS SIZE_MAX /* more than any array has */

/* How many sums an array has, with weights or without; NO_RECORDS where its items are something else. */
INLINE size_t count_records(const Py_buffer *view) {
    return has_weights(view) || holds_states(view) ? (size_t)view->len / (size_t)view->itemsize : NO_RECORDS;
}

/* (out, codes, values) */
static PyObject *py_group_values(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, "*..", v)) return NULL;
    size_t n = LENGTH(v[1], int32_t);
    int fits = n == LENGTH(v[2], double) && holds_states(&v[0]);
    return finished(v, 3, WITHOUT_GIL(fits, group_values(v[0].buf, LENGTH(v[0], record), v[1].buf, v[2].buf, n)));
}

/* (out, codes, states, scale) */
static PyObject *py_merge_groups(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[4];
    if (open_buffers(args, "*...", v)) return NULL;
    size_t n = LENGTH(v[1], int32_t), groups = count_records(&v[0]);
    int fits = n == count_records(&v[2]) && v[0].itemsize == v[2].itemsize && v[3].len == sizeof(scale);
    return finished(v, 4, WITHOUT_GIL(fits, has_weights(&v[0])
                                                ? merge_weighted_groups(v[0].buf, groups, v[1].buf, v[2].buf, n)
                                                : merge_groups(v[0].buf, groups, v[1].buf, v[2].buf, n, SCALE_OF(v[3]))));
}

/* (out, codes, x, weights or none, scale) */
static PyObject *py_group_terms(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[5];
    if (open_buffers(args, "*....", v)) return NULL;
    size_t n = LENGTH(v[1], int32_t), groups = count_records(&v[0]);
    int weigh = has_weights(&v[0]);
    int fits = groups != NO_RECORDS && n == LENGTH(v[2], double) && LENGTH(v[3], double) == (weigh ? n : 0) &&
               v[4].len == sizeof(scale);
    return finished(v, 5, WITHOUT_GIL(fits, weigh ? group_weighted(v[0].buf, groups, v[1].buf, v[2].buf, v[3].buf, n, SCALE_OF(v[4]))
                                                  : group_scaled(v[0].buf, groups, v[1].buf, v[2].buf, n, SCALE_OF(v[4]))));
}

/* (states, out) */
static PyObject *py_values_of(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, ".*", v)) return NULL;
    size_t n = LENGTH(v[0], record);
    int fits = n == LENGTH(v[1], double) && holds_states(&v[0]);
    return finished(v, 2, WITHOUT_GIL(fits, (values_of(v[0].buf, n, v[1].buf), DONE)));
}

/* (x, out): one row of x for each of out */
static PyObject *py_row_values(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, ".*", v)) return NULL;
    size_t n = LENGTH(v[1], double), size = LENGTH(v[0], double);
    int fits = n == 0 ? size == 0 : size % n == 0;
    return finished(v, 2, WITHOUT_GIL(fits, (row_values(v[0].buf, n, n ? size / n : 0, v[1].buf), DONE)));
}

/* (x, out): both of the same rows and columns */
static PyObject *py_row_softmax(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, ".*", v)) return NULL;
    int fits = v[0].ndim == 2 && v[0].len == v[1].len;
    size_t rows = fits ? (size_t)v[0].shape[0] : 0, columns = fits ? (size_t)v[0].shape[1] : 0;
    return finished(v, 2, WITHOUT_GIL(fits && LENGTH(v[0], double) == rows * columns, row_softmax(v[0].buf, rows, columns, v[1].buf)));
}

/* (states, counts, scale, out): 5 columns of out */
static PyObject *py_quotients_of(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[4];
    if (open_buffers(args, "...*", v)) return NULL;
    size_t n = count_records(&v[0]);
    int fits = n == LENGTH(v[1], int64_t) && n == LENGTH(v[3], quotient) && v[2].len == sizeof(scale);
    return finished(v, 4, WITHOUT_GIL(fits, ((has_weights(&v[0]) ? weighted_quotients_of(v[0].buf, v[1].buf, n, SCALE_OF(v[2]), v[3].buf)
                                                                 : quotients_of(v[0].buf, v[1].buf, n, SCALE_OF(v[2]), v[3].buf)),
                                             DONE)));
}

/* (states, scale, out): 5 words of out for each state */
static PyObject *py_reciprocals_of(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, "..*", v)) return NULL;
    size_t n = count_records(&v[0]);
    int fits = n == LENGTH(v[2], reciprocal) && v[1].len == sizeof(scale);
    return finished(v, 3, WITHOUT_GIL(fits, ((has_weights(&v[0]) ? weighted_reciprocals_of(v[0].buf, n, v[2].buf)
                                                                 : reciprocals_of(v[0].buf, n, SCALE_OF(v[1]), v[2].buf)),
                                             DONE)));
}

/* (reciprocals, codes, x, scale, out) */
static PyObject *py_softmax_by(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[5];
    if (open_buffers(args, "....*", v)) return NULL;
    size_t n = LENGTH(v[1], int32_t), groups = LENGTH(v[0], reciprocal);
    int fits = n == LENGTH(v[2], double) && n == LENGTH(v[4], double) && v[3].len == sizeof(scale);
    return finished(v, 5, WITHOUT_GIL(fits, softmax_by(v[0].buf, groups, v[1].buf, v[2].buf, n, SCALE_OF(v[3]), v[4].buf)));
}

/* (codes, a, b or none, begins): the words */
static PyObject *py_sum_products(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[4];
    if (open_buffers(args, "...*", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t), factors_b = LENGTH(v[2], double), begins = LENGTH(v[3], int64_t);
    int fits = begins && n == LENGTH(v[1], double) && (!factors_b || factors_b == n);
    const double *b = factors_b ? v[2].buf : NULL;
    buffer sums = {NULL, 0, 0};
    int result = WITHOUT_GIL(fits, sum_groups(v[0].buf, v[1].buf, b, NULL, n, begins - 1, v[3].buf, &sums));
    return finished_sums(v, 4, result, &sums);
}

/* (codes, words, at, begins): the words */
static PyObject *py_merge_sums(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[4];
    if (open_buffers(args, "...*", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t), begins = LENGTH(v[3], int64_t);
    int fits = begins && n == LENGTH(v[2], int64_t);
    buffer sums = {NULL, 0, 0};
    int result = WITHOUT_GIL(fits, are_sums(v[1].buf, LENGTH(v[1], uint64_t), v[2].buf, n)
                                       ? sum_groups(v[0].buf, v[2].buf, NULL, v[1].buf, n, begins - 1, v[3].buf, &sums)
                                       : BAD_SUM);
    return finished_sums(v, 4, result, &sums);
}

/* (words, at, divisors, out) */
static PyObject *py_exact_values(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[4];
    if (open_buffers(args, "...*", v)) return NULL;
    size_t n = LENGTH(v[1], int64_t), size = LENGTH(v[0], uint64_t);
    int fits = n == LENGTH(v[2], int64_t) && n == LENGTH(v[3], double);
    return finished(v, 4, WITHOUT_GIL(fits, exact_values(v[0].buf, size, v[1].buf, v[2].buf, n, v[3].buf)));
}

/* (words, at, out): 2 columns of out */
static PyObject *py_exact_pairs(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, "..*", v)) return NULL;
    size_t n = LENGTH(v[1], int64_t), size = LENGTH(v[0], uint64_t);
    return finished(v, 3, WITHOUT_GIL(2 * n == LENGTH(v[2], double), exact_pairs(v[0].buf, size, v[1].buf, n, v[2].buf)));
}

/* (words, at, words of squares, their at, counts, divisors, out) */
static PyObject *py_exact_variances(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[7];
    if (open_buffers(args, "......*", v)) return NULL;
    size_t n = LENGTH(v[1], int64_t), size = LENGTH(v[0], uint64_t), size_q = LENGTH(v[2], uint64_t);
    int fits = n == LENGTH(v[3], int64_t) && n == LENGTH(v[4], int64_t) && n == LENGTH(v[5], int64_t) && n == LENGTH(v[6], double);
    return finished(v, 7, WITHOUT_GIL(fits, exact_variances(v[0].buf, size, v[1].buf, v[2].buf, size_q, v[3].buf, v[4].buf,
                                                            v[5].buf, n, v[6].buf)));
}

/* (x, out) */
static PyObject *py_log(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, ".*", v)) return NULL;
    return finished(v, 2, WITHOUT_GIL(v[0].len == v[1].len, (logs_of(v[0].buf, LENGTH(v[0], double), v[1].buf), DONE)));
}

/* (x, out) */
static PyObject *py_exp(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, ".*", v)) return NULL;
    return finished(v, 2, WITHOUT_GIL(v[0].len == v[1].len, (exps_of(v[0].buf, LENGTH(v[0], double), v[1].buf), DONE)));
}

/* (tails, rests, offsets, others, out): 4 columns of out */
static PyObject *py_smooth_tails(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[5];
    if (open_buffers(args, "....*", v)) return NULL;
    size_t n = LENGTH(v[3], int64_t), size = LENGTH(v[0], double);
    int fits = n + 1 == LENGTH(v[2], int64_t) && n == LENGTH(v[1], double) && 4 * n == LENGTH(v[4], double) &&
               are_places(v[2].buf, n, size);
    return finished(v, 5, WITHOUT_GIL(fits, smooth_tails(v[0].buf, v[1].buf, v[2].buf, v[3].buf, n, v[4].buf)));
}

/* (states, scale): (row, fault) of the first that is not canonical, or None */
static PyObject *py_check(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, "..", v)) return NULL;
    int fault = NO_FAULT;
    size_t n = count_records(&v[0]), row = 0;
    int result = WITHOUT_GIL(n != NO_RECORDS && v[1].len == sizeof(scale),
                             (fault = find_fault(v[0].buf, n, has_weights(&v[0]), SCALE_OF(v[1]), &row), DONE));
    PyObject *none = finished(v, 2, result);
    if (fault == NO_FAULT) return none;
    Py_DECREF(none);
    return Py_BuildValue("ni", (Py_ssize_t)row, fault);
}

/* (words, offsets): writes the checks of records */
static PyObject *py_seal(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, "*.", v)) return NULL;
    size_t n = LENGTH(v[1], int64_t);
    int fits = n && are_places(v[1].buf, n - 1, LENGTH(v[0], uint64_t));
    return finished(v, 2, WITHOUT_GIL(fits, (seal_records(v[0].buf, v[1].buf, n - 1), DONE)));
}

/* (words, offsets): the first record whose check is wrong, or how many there are */
static PyObject *py_find_damage(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, "..", v)) return NULL;
    size_t n = LENGTH(v[1], int64_t), row = 0;
    int fits = n && are_places(v[1].buf, n - 1, LENGTH(v[0], uint64_t));
    PyObject *none = finished(v, 2, WITHOUT_GIL(fits, (row = find_damage(v[0].buf, v[1].buf, n - 1), DONE)));
    if (!none) return NULL;
    Py_DECREF(none);
    return PyLong_FromSize_t(row);
}

/* (offsets, data, out) */
static PyObject *py_checksum_bytes(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, "..*", v)) return NULL;
    size_t n = LENGTH(v[2], uint64_t), item = (size_t)v[0].itemsize;
    int fits = are_offsets(&v[0], n);
    return finished(v, 3, WITHOUT_GIL(fits, (checksum_bytes(v[0].buf, item, v[1].buf, n, v[2].buf), DONE)));
}

/* (hashes, words, valid or none) */
static PyObject *py_hash_column(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, "*..", v)) return NULL;
    size_t n = LENGTH(v[0], uint64_t);
    int fits = n == LENGTH(v[1], uint64_t) && (!v[2].len || (size_t)v[2].len == n);
    const char *valid = v[2].len ? v[2].buf : NULL;
    return finished(v, 3, WITHOUT_GIL(fits, (hash_column(v[0].buf, v[1].buf, valid, n), DONE)));
}

/* (shards, rows, ends) */
static PyObject *py_rows_by_shard(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, ".**", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t), num_shards = LENGTH(v[2], int64_t);
    int fits = n == LENGTH(v[1], int64_t);
    return finished(v, 3, WITHOUT_GIL(fits, rows_by_shard(v[0].buf, n, num_shards, v[1].buf, v[2].buf)));
}

/* (codes, values, begins, sorted codes, sorted values) */
static PyObject *py_sort_rows(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[5];
    if (open_buffers(args, "..***", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t), groups = LENGTH(v[2], int64_t);
    int fits = n == LENGTH(v[1], double) && n == LENGTH(v[3], int32_t) && n == LENGTH(v[4], double);
    return finished(v, 5, WITHOUT_GIL(fits, sort_rows(v[0].buf, v[1].buf, n, groups, v[2].buf, v[3].buf, v[4].buf)));
}

static PyObject *py_instruction_sets(PyObject *module, PyObject *ignored) {
    (void)module, (void)ignored;
    PyObject *names = PyTuple_New(n_supported);
    for (int i = 0; names && i < n_supported; i++) {
        PyObject *name = PyUnicode_FromString(supported[i]->name);
        if (!name || PyTuple_SetItem(names, i, name)) {
            Py_DECREF(names);
            return NULL;
        }
    }
    return names;
}

static PyObject *py_select(PyObject *module, PyObject *name) {
    (void)module;
    for (int i = 0; i < n_supported; i++)
        if (PyUnicode_CompareWithASCIIString(name, supported[i]->name) == 0) {
            loops = supported[i];
            choose_check();
            Py_RETURN_NONE;
        }
    PyErr_Format(PyExc_ValueError, "no instruction set %R on this machine", name);
    return NULL;
}
