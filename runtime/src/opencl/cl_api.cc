/*!
 * \file opencl/cl_api.cc
 * \brief Loading of one OpenCL library, and names for OpenCL's error numbers.
 */
#include "cl_api.h"

#include <dlfcn.h>

#include <array>

namespace hetero_tvm::runtime::opencl {
namespace {

struct ErrorName {
  cl_int status;
  const char* name;
};

constexpr std::array kErrorNames = {
    ErrorName{kNothingMade, "the driver says that it succeeded, and gave nothing"},
    ErrorName{-1, "CL_DEVICE_NOT_FOUND"},
    ErrorName{-2, "CL_DEVICE_NOT_AVAILABLE"},
    ErrorName{-3, "CL_COMPILER_NOT_AVAILABLE"},
    ErrorName{-4, "CL_MEM_OBJECT_ALLOCATION_FAILURE"},
    ErrorName{-5, "CL_OUT_OF_RESOURCES"},
    ErrorName{-6, "CL_OUT_OF_HOST_MEMORY"},
    ErrorName{-10, "CL_IMAGE_FORMAT_NOT_SUPPORTED"},
    ErrorName{-11, "CL_BUILD_PROGRAM_FAILURE"},
    ErrorName{-12, "CL_MAP_FAILURE"},
    ErrorName{-13, "CL_MISALIGNED_SUB_BUFFER_OFFSET"},
    ErrorName{-14, "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST"},
    ErrorName{-30, "CL_INVALID_VALUE"},
    ErrorName{-33, "CL_INVALID_DEVICE"},
    ErrorName{-34, "CL_INVALID_CONTEXT"},
    ErrorName{-36, "CL_INVALID_COMMAND_QUEUE"},
    ErrorName{-38, "CL_INVALID_MEM_OBJECT"},
    ErrorName{-39, "CL_INVALID_IMAGE_FORMAT_DESCRIPTOR"},
    ErrorName{-40, "CL_INVALID_IMAGE_SIZE"},
    ErrorName{-42, "CL_INVALID_BINARY"},
    ErrorName{-44, "CL_INVALID_PROGRAM"},
    ErrorName{-45, "CL_INVALID_PROGRAM_EXECUTABLE"},
    ErrorName{-46, "CL_INVALID_KERNEL_NAME"},
    ErrorName{-48, "CL_INVALID_KERNEL"},
    ErrorName{-49, "CL_INVALID_ARG_INDEX"},
    ErrorName{-50, "CL_INVALID_ARG_VALUE"},
    ErrorName{-51, "CL_INVALID_ARG_SIZE"},
    ErrorName{-52, "CL_INVALID_KERNEL_ARGS"},
    ErrorName{-53, "CL_INVALID_WORK_DIMENSION"},
    ErrorName{-54, "CL_INVALID_WORK_GROUP_SIZE"},
    ErrorName{-55, "CL_INVALID_WORK_ITEM_SIZE"},
    ErrorName{-61, "CL_INVALID_BUFFER_SIZE"},
    ErrorName{-63, "CL_INVALID_GLOBAL_WORK_SIZE"},
};

}  // namespace

std::string ClErrorName(cl_int status) {
  for (const ErrorName& known : kErrorNames) {
    if (known.status == status) return known.name;
  }
  return "an error that OpenCL has no name for";
}

const char* ClAdvice(cl_int status) {
  switch (status) {
    case -4:   // CL_MEM_OBJECT_ALLOCATION_FAILURE
    case -6:   // CL_OUT_OF_HOST_MEMORY
    case -61:  // CL_INVALID_BUFFER_SIZE
      return "there is not enough memory: end other programs, or build for a smaller input";
    case -11:  // CL_BUILD_PROGRAM_FAILURE
      return "build the model again, and report this with it if that does not help";
    default:
      return "try again in a new process; if it stays, run `hetero-tvm doctor` and update the "
             "driver";
  }
}

std::string ClProblem(cl_int status) {
  return ClErrorName(status) + " (" + std::to_string(status) + "); " + ClAdvice(status);
}

std::unique_ptr<ClApi> ClApi::Load(const std::string& library, std::string* why_not) {
  // RTLD_LOCAL: drivers carry their own LLVM, which must not meet TVM's.
  const CallGuard guard("dlopen of OpenCL");
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    *why_not = dlerror();
    return nullptr;
  }
  auto api = std::make_unique<ClApi>();
  api->library = library;
#define HETERO_CL_RESOLVE(result, name, parameters) \
  api->name.Set(reinterpret_cast<result(*) parameters>(dlsym(handle, "cl" #name)), "cl" #name);
  HETERO_CL_FUNCTIONS(HETERO_CL_RESOLVE)
  HETERO_CL_SVM_FUNCTIONS(HETERO_CL_RESOLVE)
  HETERO_CL_IMAGE_FUNCTIONS(HETERO_CL_RESOLVE)
  HETERO_CL_TIMER_FUNCTIONS(HETERO_CL_RESOLVE)
#undef HETERO_CL_RESOLVE
#define HETERO_CL_REQUIRE(result, name, parameters)             \
  if (api->name == nullptr) {                                   \
    *why_not = library + ": no cl" #name " (OpenCL 1.2) in it"; \
    return nullptr;                                             \
  }
  HETERO_CL_FUNCTIONS(HETERO_CL_REQUIRE)
#undef HETERO_CL_REQUIRE
  return api;
}

}  // namespace hetero_tvm::runtime::opencl
