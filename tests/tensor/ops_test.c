/* Every differentiable operation on every device that the machine has. */
#include "tests/tensor/cases.h"

static void all(test *t) {
    op_tests_run(t, cases_elementwise);
    op_tests_run(t, cases_shape);
    op_tests_run(t, cases_products);
    op_tests_run(t, cases_norm);
    op_tests_run(t, cases_attention);
    op_tests_run(t, cases_loss);
    op_tests_run(t, cases_moe);
}

int main(int argc, char **argv) {
    test t;
    test_init(&t, argc, argv);
    test_each_device(&t, all);
    return test_finish(&t);
}
