/* The module's functions over arrays. */

typedef int by_group(record *out, size_t groups, const int32_t *codes, const void *items, size_t n);

/* Calls work(out, codes, items) without the GIL. */
static PyObject *run_by_group(PyObject *args, by_group *work, size_t item_size) {
    Py_buffer v[3];
    if (open_buffers(args, "*..", v)) return NULL;
    size_t n = LENGTH(v[1], int32_t);
    if (n != (size_t)v[2].len / item_size) return mismatch(v, 3);
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = work(v[0].buf, LENGTH(v[0], record), v[1].buf, v[2].buf, n);
    Py_END_ALLOW_THREADS
    close_buffers(v, 3);
    return outcome(result);
}

/* (out, codes, x, weights or none, scale) */
static PyObject *py_group_terms(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[5];
    if (open_buffers(args, "*....", v)) return NULL;
    size_t n = LENGTH(v[1], int32_t), weights = LENGTH(v[3], double);
    if (n != LENGTH(v[2], double) || (weights && weights != n) || v[4].len != sizeof(scale)) return mismatch(v, 5);
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = group_terms(v[0].buf, LENGTH(v[0], record), v[1].buf, v[2].buf, weights ? v[3].buf : NULL, n, SCALE_OF(v[4]));
    Py_END_ALLOW_THREADS
    return finished(v, 5, result);
}

/* (x, out): x has a row for each of out */
static PyObject *py_row_values(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, ".*", v)) return NULL;
    size_t n = LENGTH(v[1], double), size = LENGTH(v[0], double);
    if (n == 0 ? size != 0 : size % n != 0) return mismatch(v, 2);
    Py_BEGIN_ALLOW_THREADS
    if (n) row_values(v[0].buf, n, size / n, v[1].buf);
    Py_END_ALLOW_THREADS
    close_buffers(v, 2);
    Py_RETURN_NONE;
}

/* (states, counts, scale, out): out has 5 columns */
static PyObject *py_quotients_of(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[4];
    if (open_buffers(args, "...*", v)) return NULL;
    size_t n = LENGTH(v[0], record);
    if (n != LENGTH(v[1], int64_t) || n != LENGTH(v[3], quotient) || v[2].len != sizeof(scale)) return mismatch(v, 4);
    Py_BEGIN_ALLOW_THREADS
    for (size_t i = 0; i < n; i++) {
        state s = load((const record *)v[0].buf + i);
        ((quotient *)v[3].buf)[i] = quotient_of(&s, ((const int64_t *)v[1].buf)[i], SCALE_OF(v[2]));
    }
    Py_END_ALLOW_THREADS
    close_buffers(v, 4);
    Py_RETURN_NONE;
}

/* (states, out): out has 5 words for each */
static PyObject *py_reciprocals_of(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, ".*", v)) return NULL;
    size_t n = LENGTH(v[0], record);
    if (n != LENGTH(v[1], reciprocal)) return mismatch(v, 2);
    Py_BEGIN_ALLOW_THREADS
    for (size_t i = 0; i < n; i++) {
        state s = load((const record *)v[0].buf + i);
        ((reciprocal *)v[1].buf)[i] = reciprocal_of(&s);
    }
    Py_END_ALLOW_THREADS
    return finished(v, 2, DONE);
}

/* (reciprocals, codes, x, scale, out) */
static PyObject *py_weights_of(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[5];
    if (open_buffers(args, "....*", v)) return NULL;
    size_t n = LENGTH(v[1], int32_t);
    if (n != LENGTH(v[2], double) || n != LENGTH(v[4], double) || v[3].len != sizeof(scale)) return mismatch(v, 5);
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = weights_of(v[0].buf, LENGTH(v[0], reciprocal), v[1].buf, v[2].buf, n, SCALE_OF(v[3]), v[4].buf);
    Py_END_ALLOW_THREADS
    return finished(v, 5, result);
}

/* (codes, a, b or none, begins) or (codes, words, at, begins): the words */
static PyObject *run_sums(PyObject *args, int stored) {
    Py_buffer v[4];
    if (open_buffers(args, "...*", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t), second = LENGTH(v[2], int64_t), begins = LENGTH(v[3], int64_t);
    if (begins == 0 || (stored ? second != n : LENGTH(v[1], double) != n || (second && second != n))) return mismatch(v, 4);
    buffer out = {NULL, 0, 0};
    int result;
    Py_BEGIN_ALLOW_THREADS
    if (stored)
        result = sum_groups(v[0].buf, v[2].buf, NULL, v[1].buf, n, begins - 1, v[3].buf, &out);
    else
        result = sum_groups(v[0].buf, v[1].buf, second ? v[2].buf : NULL, NULL, n, begins - 1, v[3].buf, &out);
    Py_END_ALLOW_THREADS
    close_buffers(v, 4);
    PyObject *words = result == DONE ? PyBytes_FromStringAndSize((const char *)out.data, (Py_ssize_t)out.size * 8) : outcome(result);
    free(out.data);
    return words;
}

static PyObject *py_sum_products(PyObject *module, PyObject *args) {
    (void)module;
    return run_sums(args, 0);
}

static PyObject *py_merge_sums(PyObject *module, PyObject *args) {
    (void)module;
    return run_sums(args, 1);
}

static PyObject *py_group_values(PyObject *module, PyObject *args) {
    (void)module;
    return run_by_group(args, group_values, sizeof(double));
}

static PyObject *py_merge_groups(PyObject *module, PyObject *args) {
    (void)module;
    return run_by_group(args, merge_groups, sizeof(record));
}

static PyObject *py_values_of(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[2];
    if (open_buffers(args, ".*", v)) return NULL;
    size_t n = LENGTH(v[0], record);
    if (n != LENGTH(v[1], double)) return mismatch(v, 2);
    Py_BEGIN_ALLOW_THREADS
    values_of(v[0].buf, n, v[1].buf);
    Py_END_ALLOW_THREADS
    close_buffers(v, 2);
    Py_RETURN_NONE;
}

static PyObject *py_check(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, "...", v)) return NULL;
    if (v[1].len != sizeof(scale) || v[2].len != 1) return mismatch(v, 3);
    size_t n = LENGTH(v[0], record), row = 0;
    int fault = -1, is_signed = *(const char *)v[2].buf;
    Py_BEGIN_ALLOW_THREADS
    for (; row < n && (fault = fault_of((const record *)v[0].buf + row, SCALE_OF(v[1]), is_signed)) < 0; row++);
    Py_END_ALLOW_THREADS
    close_buffers(v, 3);
    if (fault < 0) Py_RETURN_NONE;
    return Py_BuildValue("ni", (Py_ssize_t)row, fault);
}

/* (offsets, data, out) */
static PyObject *py_checksum_bytes(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, "..*", v)) return NULL;
    size_t n = LENGTH(v[2], uint64_t), item = (size_t)v[0].itemsize;
    if ((item != 4 && item != 8) || (size_t)v[0].len != (n + 1) * item) return mismatch(v, 3);
    Py_BEGIN_ALLOW_THREADS
    checksum_bytes(v[0].buf, item, v[1].buf, n, v[2].buf);
    Py_END_ALLOW_THREADS
    return finished(v, 3, DONE);
}

/* (hashes, words, valid or none) */
static PyObject *py_hash_column(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, "*..", v)) return NULL;
    size_t n = LENGTH(v[0], uint64_t);
    if (LENGTH(v[1], uint64_t) != n || (v[2].len && (size_t)v[2].len != n)) return mismatch(v, 3);
    Py_BEGIN_ALLOW_THREADS
    hash_column(v[0].buf, v[1].buf, v[2].len ? v[2].buf : NULL, n);
    Py_END_ALLOW_THREADS
    return finished(v, 3, DONE);
}

/* (shards, rows, ends) */
static PyObject *py_rows_by_shard(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer v[3];
    if (open_buffers(args, ".**", v)) return NULL;
    size_t n = LENGTH(v[0], int32_t), num_shards = LENGTH(v[2], int64_t);
    if (LENGTH(v[1], int64_t) != n) return mismatch(v, 3);
    int result = codes_in_range(v[0].buf, n, num_shards) ? DONE : BAD_CODE;
    Py_BEGIN_ALLOW_THREADS
    if (result == DONE) rows_by_shard(v[0].buf, n, num_shards, v[1].buf, v[2].buf);
    Py_END_ALLOW_THREADS
    return finished(v, 3, result);
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
            Py_RETURN_NONE;
        }
    PyErr_Format(PyExc_ValueError, "no instruction set %R on this machine", name);
    return NULL;
}
