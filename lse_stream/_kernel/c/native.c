/* The kernel in C: exact sums of e^x. The twin, in NumPy, does the same operations and gives the same bits.

   A sum counts the terms of its maximum, and adds up those of all smaller values, the rest. A term e^x = 2^k (A + B), a pair
   with a relative error of about 2^-60, is cut into three limbs of 50 bits on an absolute grid of quanta 2^base, 2^(base-50),
   2^(base-100), and the limbs are summed as integers, so the order cannot matter. The base is a function of the second, the
   largest value of the rest: 50 floor((k + 1) / 50). When the second grows, limbs move down by whole positions and the lowest
   are dropped. A term never reaches half the next larger quantum (k - base is in [-1, 48]), so what remains is what would have
   been added on the new grid from the start. The second never falls: the former maximum joins the rest with all its terms.
   Carries between limbs are never propagated in a state: that would depend on the order.

   Sums on an absolute grid of bins that follow the maximum are those of J. Demmel and H. D. Nguyen, "Parallel Reproducible
   Summation", IEEE Trans. Computers 64 (2015), and of ReproBLAS; here the terms are exponentials, and the bins integers.

   One translation unit, so that the compiler inlines across its parts: each header builds on those before it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __linux__
#include <sys/auxv.h>
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <arm_neon.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "records are little-endian: the NumPy kernel serves other machines"
#endif

#include "constants.h"
#include "memory.h"
#include "instruction_sets.h"
#include "crc.h"
#include "state.h"
#include "values.h"
#include "elementary.h"
#include "codes.h"
#include "grouped.h"
#include "weighted.h"
#include "pareto_tail.h"
#include "check.h"
#include "exact_sum.h"
#include "exact_ratio.h"
#include "objects.h"
#include "buffers.h"
#include "key_index.h"
#include "key_hashes.h"
#include "smallest.h"
#include "exact_window.h"
#include "growing.h"
#include "rows_type.h"
#include "state_type.h"
#include "functions.h"

static PyMethodDef methods[] = {
    {"group_values", py_group_values, METH_VARARGS, "(out, codes, values): writes the state of each code's values."},
    {"merge_groups", py_merge_groups, METH_VARARGS,
     "(out, codes, states, scale): writes the merged state of each code's states."},
    {"values_of", py_values_of, METH_VARARGS, "(states, out): writes each log-sum-exp."},
    {"group_terms", py_group_terms, METH_VARARGS,
     "(out, codes, x, weights, scale): writes the state of each code's w e^(c x); no weights: 1."},
    {"row_values", py_row_values, METH_VARARGS, "(x, out): writes the log-sum-exp of each row of x."},
    {"row_softmax", py_row_softmax, METH_VARARGS, "(x, out): writes e^x over the sum of its row, for rows and columns of x."},
    {"quotients_of", py_quotients_of, METH_VARARGS,
     "(states, counts, scale, out): writes sign, log and value of sum / (count max)."},
    {"reciprocals_of", py_reciprocals_of, METH_VARARGS, "(states, scale, out): writes what softmax_by needs of each sum."},
    {"softmax_by", py_softmax_by, METH_VARARGS,
     "(reciprocals, codes, x, scale, out): writes e^(c x) over the sum of its code."},
    {"sum_products", py_sum_products, METH_VARARGS,
     "(codes, a, b, begins): the exact sums of a b of each code, as words; no b: 1."},
    {"merge_sums", py_merge_sums, METH_VARARGS,
     "(codes, words, at, begins): the exact sums of the stored sums of each code, as words."},
    {"exact_values", py_exact_values, METH_VARARGS,
     "(words, at, divisors, out): writes each stored sum over its divisor."},
    {"exact_pairs", py_exact_pairs, METH_VARARGS, "(words, at, out): writes each stored sum as a double-double."},
    {"exact_variances", py_exact_variances, METH_VARARGS,
     "(words, at, words, at, counts, divisors, out): writes the variances of stored sums of values and of squares."},
    {"log", py_log, METH_VARARGS, "(x, out): writes each logarithm."},
    {"exp", py_exp, METH_VARARGS, "(x, out): writes each exponential."},
    {"smooth_tails", py_smooth_tails, METH_VARARGS,
     "(tails, rests, offsets, others, out): writes k of each tail, ln of the mean, the sum of weights, and of squares."},
    {"check", py_check, METH_VARARGS,
     "(states, scale): (row, fault) of the first that is not canonical, or None."},
    {"seal", py_seal, METH_VARARGS, "(words, offsets): writes the checks of records."},
    {"find_damage", py_find_damage, METH_VARARGS,
     "(words, offsets): the first record whose check is wrong, or how many there are."},
    {"hash_column", py_hash_column, METH_VARARGS, "(hashes, words, valid): adds a key column to the hashes of rows."},
    {"rows_by_shard", py_rows_by_shard, METH_VARARGS,
     "(shards, rows, ends): writes the rows of each shard, and where they end."},
    {"sort_rows", py_sort_rows, METH_VARARGS,
     "(codes, values, begins, codes, values): writes the rows in the order of their codes."},
    {"checksum_bytes", py_checksum_bytes, METH_VARARGS,
     "(offsets, data, out): writes CRC-32 and length of each byte string."},
    {"instruction_sets", py_instruction_sets, METH_NOARGS, "What this machine can run, fastest first."},
    {"select", py_select, METH_O, "Uses an instruction set from now on."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_native(void) {
    find_supported();
    make_crc_table();
    make_crc_tables();
    choose_check();
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    StateType = (PyTypeObject *)PyType_FromSpec(&State_spec);
    RowsType = (PyTypeObject *)PyType_FromSpec(&Rows_spec);
    if (!StateType || PyModule_AddObjectRef(module, "State", (PyObject *)StateType) || !RowsType ||
        PyModule_AddObjectRef(module, "Rows", (PyObject *)RowsType) || add_growing_types(module)) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
