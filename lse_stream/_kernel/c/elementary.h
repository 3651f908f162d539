/* Logarithms and exponentials of doubles, from the pairs of vector_loops.h: those of C libraries differ from machine to
   machine. */

static void logs_of(const double *x, size_t n, double *out) {
    static const double none[BATCH];
    double some[BATCH], high[BATCH], low[BATCH];
    for (size_t i = 0; i < n; i += BATCH) {
        size_t size = n - i < BATCH ? n - i : BATCH;
        for (size_t j = 0; j < BATCH; j++) some[j] = j < size ? x[i + j] : 1.0;
        loops->logs(some, none, 0, BATCH, high, low);
        for (size_t j = 0; j < size; j++)
            out[i + j] = some[j] == 0.0 ? -INFINITY : some[j] == INFINITY ? INFINITY : high[j];
    }
}

static double exp_of(double x) {
    double high, low;
    int64_t exponent;
    if (!(fabs(x) < 1000.0)) return x > 0.0 ? INFINITY : x < 0.0 ? 0.0 : double_of(THE_NAN);
    own_term(x, NATURAL, &high, &low, &exponent);
    return ldexp(high + low, (int)exponent);
}

static void exps_of(const double *x, size_t n, double *out) {
    for (size_t i = 0; i < n; i++) out[i] = exp_of(x[i]);
}
