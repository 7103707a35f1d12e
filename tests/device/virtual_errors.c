/*
 * Provokes errors in places where TVM's C++ code calls ours directly: in a virtual function of the
 * OpenCL device, in a loader of modules, in a virtual function of a module. Prints each message;
 * without border.h the process dies, where the two sides have different C++ libraries.
 */
#include <stdio.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

static TVMFFIAny text(const char* value) {
  TVMFFIAny any = {.type_index = kTVMFFIRawStr};
  any.v_c_str = value;
  return any;
}

static TVMFFIAny number(int64_t value) {
  TVMFFIAny any = {.type_index = kTVMFFIInt};
  any.v_int64 = value;
  return any;
}

static int call(const char* name, TVMFFIAny* args, int count, TVMFFIAny* result) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  if (TVMFFIFunctionGetGlobal(&key, &function) != 0 || function == NULL) {
    printf("no function %s\n", name);
    return 1;
  }
  memset(result, 0, sizeof *result);
  return TVMFFIFunctionCall(function, args, count, result);
}

static void expect_error(const char* name, TVMFFIAny* args, int count) {
  TVMFFIAny result;
  if (call(name, args, count, &result) == 0) {
    printf("%s: no error\n", name);
    return;
  }
  TVMFFIObjectHandle raised = NULL;
  TVMFFIErrorMoveFromRaised(&raised);
  const TVMFFIErrorCell* error = (const TVMFFIErrorCell*)((TVMFFIObject*)raised + 1);
  printf("%.*s: %.*s\n", (int)error->kind.size, error->kind.data, (int)error->message.size,
         error->message.data);
  fflush(stdout);
}

int main(void) {
  TVMFFIAny result;
  if (call("hetero_tvm.opencl_open", NULL, 0, &result) != 0) return 1;
  TVMFFIAny sizes[2] = {number(1 << 20), number(1 << 20)};
  TVMFFIAny shape;
  if (call("ffi.Shape", sizes, 2, &shape) != 0) return 1;
  TVMFFIAny alloc[4] = {shape, text("float32"), {.type_index = kTVMFFIDevice}, {0}};
  alloc[2].v_device = (DLDevice){kDLOpenCL, 0};
  expect_error("runtime.TVMTensorAllocWithScope", alloc, 4);
  alloc[2].v_device = (DLDevice){kDLOpenCL, 7};
  expect_error("runtime.TVMTensorAllocWithScope", alloc, 4);
  TVMFFIAny wrong[2] = {number(0), number(9)};
  expect_error("hetero_tvm.wait", wrong, 2);
  puts("alive");
  return 0;
}
