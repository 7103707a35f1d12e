/*
 * Loads an artefact, feeds it ones, runs it, prints the start of each output.
 *
 *   c_app model.so
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hetero_tvm/runtime.h"

/* One line that says what went wrong; the codes are those of the command-line verbs. */
static int failed(hetero_status status) {
  fprintf(stderr, "c_app: %s\n", hetero_last_error());
  return (int)status;
}

static int set_ones(hetero_model* model, size_t index) {
  hetero_tensor input;
  hetero_status status = hetero_model_input(model, index, &input);
  if (status != HETERO_OK) return failed(status);
  if (strcmp(input.dtype, "float32") != 0) {
    fprintf(stderr, "c_app: input %s is %s; this example feeds float32\n", input.name, input.dtype);
    return HETERO_BAD_INPUT;
  }
  float* ones = malloc(input.bytes);
  if (ones == NULL) return HETERO_ENVIRONMENT;
  for (size_t i = 0; i < input.bytes / sizeof *ones; ++i) ones[i] = 1.0F;
  status = hetero_model_set_input(model, index, ones, input.bytes);
  free(ones);
  return status == HETERO_OK ? HETERO_OK : failed(status);
}

static int print_output(hetero_model* model, size_t index) {
  hetero_tensor output;
  hetero_status status = hetero_model_output(model, index, &output);
  if (status != HETERO_OK) return failed(status);
  float* values = malloc(output.bytes);
  if (values == NULL) return HETERO_ENVIRONMENT;
  status = hetero_model_get_output(model, index, values, output.bytes);
  if (status == HETERO_OK && strcmp(output.dtype, "float32") == 0) {
    printf("%s:", output.name);
    for (size_t i = 0; i < output.bytes / sizeof *values && i < 4; ++i) printf(" %.6f", values[i]);
    printf("\n");
  }
  free(values);
  return status == HETERO_OK ? HETERO_OK : failed(status);
}

int main(int count, char** words) {
  if (count != 2) {
    fprintf(stderr, "usage: c_app model.so\n");
    return HETERO_BAD_INPUT;
  }
  hetero_model* model = NULL;
  hetero_status status = hetero_model_load(words[1], &model);
  if (status != HETERO_OK) return failed(status);
  int code = HETERO_OK;
  for (size_t i = 0; code == HETERO_OK && i < hetero_model_input_count(model); ++i) {
    code = set_ones(model, i);
  }
  if (code == HETERO_OK) {
    status = hetero_model_run(model);
    if (status != HETERO_OK) code = failed(status);
  }
  for (size_t i = 0; code == HETERO_OK && i < hetero_model_output_count(model); ++i) {
    code = print_output(model, i);
  }
  hetero_model_free(model);
  return code;
}
