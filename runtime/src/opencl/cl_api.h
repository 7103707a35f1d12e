/*!
 * \file opencl/cl_api.h
 * \brief The part of the OpenCL 1.2 / 2.0 ABI that the runtime uses, loaded with dlopen.
 *
 * Declared by hand so that building needs no OpenCL headers and running no OpenCL loader.
 */
#ifndef HETERO_TVM_RUNTIME_OPENCL_CL_API_H_
#define HETERO_TVM_RUNTIME_OPENCL_CL_API_H_

#include <tvm/ffi/error.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "../watch.h"

namespace hetero_tvm::runtime::opencl {

using cl_int = int32_t;
using cl_uint = uint32_t;
using cl_ulong = uint64_t;
using cl_bool = cl_uint;
using cl_bitfield = cl_ulong;

using cl_platform_id = struct ClPlatformTag*;
using cl_device_id = struct ClDeviceTag*;
using cl_context = struct ClContextTag*;
using cl_command_queue = struct ClQueueTag*;
using cl_mem = struct ClMemTag*;
using cl_program = struct ClProgramTag*;
using cl_kernel = struct ClKernelTag*;
using cl_event = struct ClEventTag*;

using ClContextNotify = void (*)(const char* text, const void* info, size_t size, void* user);
using ClMemNotify = void (*)(cl_mem memory, void* user);
using ClBuildNotify = void (*)(cl_program program, void* user);

constexpr cl_int kSuccess = 0;
constexpr cl_int kDeviceNotFound = -1;
constexpr cl_int kInvalidValue = -30;
constexpr cl_int kPlatformNotFound = -1001;  // of the loader, where there is no driver
constexpr cl_int kNothingMade =
    -1000000;  // ours: a driver says that it made something, and gave nothing
constexpr cl_bitfield kDeviceTypeGpu = 1U << 2U;
constexpr cl_bitfield kDeviceTypeAccelerator = 1U << 3U;
constexpr cl_bitfield kDeviceTypeAll = 0xFFFFFFFF;

constexpr cl_uint kPlatformVersion = 0x0901;
constexpr cl_uint kPlatformName = 0x0902;
constexpr cl_uint kPlatformIcdSuffix = 0x0920;  // cl_khr_icd: the implementation's own mark

constexpr cl_uint kDeviceType = 0x1000;
constexpr cl_uint kDeviceMaxComputeUnits = 0x1002;
constexpr cl_uint kDeviceMaxWorkGroupSize = 0x1004;
constexpr cl_uint kDeviceMaxWorkItemSizes = 0x1005;
constexpr cl_uint kDeviceMaxClockFrequency = 0x100C;
constexpr cl_uint kDeviceMaxMemAllocSize = 0x1010;
constexpr cl_uint kDeviceImageSupport = 0x1016;
constexpr cl_uint kDeviceMemBaseAddrAlign = 0x1019;
constexpr cl_uint kDeviceGlobalMemCacheSize = 0x101E;
constexpr cl_uint kDeviceGlobalMemSize = 0x101F;
constexpr cl_uint kDeviceLocalMemSize = 0x1023;
constexpr cl_uint kDeviceName = 0x102B;
constexpr cl_uint kDriverVersion = 0x102D;
constexpr cl_uint kDeviceVersion = 0x102F;
constexpr cl_uint kDeviceExtensions = 0x1030;
constexpr cl_uint kDeviceImageMaxBufferSize = 0x1040;  // in pixels
constexpr cl_uint kDeviceSvmCapabilities = 0x1053;
constexpr cl_uint kDeviceExtMemPadding = 0x40A0;  // of cl_qcom_ext_host_ptr

constexpr cl_bitfield kSvmCoarseGrain = 1U << 0U;
constexpr cl_bitfield kSvmFineGrain = 1U << 1U;
constexpr cl_bitfield kSvmFineGrainSystem = 1U << 2U;

constexpr cl_bitfield kMemReadWrite = 1U << 0U;
constexpr cl_bitfield kMemReadOnly = 1U << 2U;
constexpr cl_bitfield kMemUseHostPtr = 1U << 3U;
constexpr cl_bitfield kMemAllocHostPtr = 1U << 4U;
constexpr cl_bitfield kMemSvmFineGrain = 1U << 10U;
constexpr cl_bool kBlocking = 1;
constexpr cl_bool kNonBlocking = 0;
constexpr cl_bitfield kMapReadWrite = 3;
constexpr cl_uint kBufferCreateTypeRegion = 0x1220;

constexpr cl_uint kImageOfBuffer = 0x10F6;  // CL_MEM_OBJECT_IMAGE1D_BUFFER
constexpr cl_uint kFourChannels = 0x10B5;   // CL_RGBA
// What a channel is.
constexpr cl_uint kSignedInt32 = 0x10D9;
constexpr cl_uint kUnsignedInt32 = 0x10DC;
constexpr cl_uint kHalfFloat = 0x10DD;
constexpr cl_uint kFloat = 0x10DE;

constexpr cl_uint kProgramBinarySizes = 0x1165;
constexpr cl_uint kProgramBinaries = 0x1166;
constexpr cl_uint kProgramBuildLog = 0x1183;

constexpr cl_bitfield kQueueProfilingEnable = 1U << 1U;

constexpr cl_uint kEventExecutionStatus = 0x11D3;
constexpr cl_int kEventComplete = 0;  // below: an error; above: not yet

// Of the device's clock, in nanoseconds.
constexpr cl_uint kProfilingQueued = 0x1280;
constexpr cl_uint kProfilingStart = 0x1282;
constexpr cl_uint kProfilingEnd = 0x1283;

/*! \brief Argument of clCreateSubBuffer. */
struct ClBufferRegion {
  size_t origin;
  size_t size;
};

/*! \brief Arguments of clCreateImage: a pixel's channels, and how the image lies. */
struct ClImageFormat {
  cl_uint order;
  cl_uint channel;
};
struct ClImageDescription {
  cl_uint type;
  size_t width, height, depth, array_size, row_pitch, slice_pitch;
  cl_uint mip_levels, samples;
  cl_mem buffer;
};

/*! \brief Functions of OpenCL 1.2, which a library must have: X(result, name, parameters). */
#define HETERO_CL_FUNCTIONS(X)                                                                   \
  X(cl_int, GetPlatformIDs, (cl_uint, cl_platform_id*, cl_uint*))                                \
  X(cl_int, GetPlatformInfo, (cl_platform_id, cl_uint, size_t, void*, size_t*))                  \
  X(cl_int, GetDeviceIDs, (cl_platform_id, cl_bitfield, cl_uint, cl_device_id*, cl_uint*))       \
  X(cl_int, GetDeviceInfo, (cl_device_id, cl_uint, size_t, void*, size_t*))                      \
  X(cl_context, CreateContext,                                                                   \
    (const intptr_t*, cl_uint, const cl_device_id*, ClContextNotify, void*, cl_int*))            \
  X(cl_int, ReleaseContext, (cl_context))                                                        \
  X(cl_command_queue, CreateCommandQueue, (cl_context, cl_device_id, cl_bitfield, cl_int*))      \
  X(cl_int, ReleaseCommandQueue, (cl_command_queue))                                             \
  X(cl_mem, CreateBuffer, (cl_context, cl_bitfield, size_t, void*, cl_int*))                     \
  X(cl_mem, CreateSubBuffer, (cl_mem, cl_bitfield, cl_uint, const void*, cl_int*))               \
  X(cl_int, ReleaseMemObject, (cl_mem))                                                          \
  X(cl_int, SetMemObjectDestructorCallback, (cl_mem, ClMemNotify, void*))                        \
  X(void*, EnqueueMapBuffer,                                                                     \
    (cl_command_queue, cl_mem, cl_bool, cl_bitfield, size_t, size_t, cl_uint, const cl_event*,   \
     cl_event*, cl_int*))                                                                        \
  X(cl_int, EnqueueUnmapMemObject,                                                               \
    (cl_command_queue, cl_mem, void*, cl_uint, const cl_event*, cl_event*))                      \
  X(cl_program, CreateProgramWithSource,                                                         \
    (cl_context, cl_uint, const char**, const size_t*, cl_int*))                                 \
  X(cl_program, CreateProgramWithBinary,                                                         \
    (cl_context, cl_uint, const cl_device_id*, const size_t*, const unsigned char**, cl_int*,    \
     cl_int*))                                                                                   \
  X(cl_int, BuildProgram,                                                                        \
    (cl_program, cl_uint, const cl_device_id*, const char*, ClBuildNotify, void*))               \
  X(cl_int, GetProgramInfo, (cl_program, cl_uint, size_t, void*, size_t*))                       \
  X(cl_int, GetProgramBuildInfo, (cl_program, cl_device_id, cl_uint, size_t, void*, size_t*))    \
  X(cl_int, ReleaseProgram, (cl_program))                                                        \
  X(cl_kernel, CreateKernel, (cl_program, const char*, cl_int*))                                 \
  X(cl_int, ReleaseKernel, (cl_kernel))                                                          \
  X(cl_int, SetKernelArg, (cl_kernel, cl_uint, size_t, const void*))                             \
  X(cl_int, EnqueueNDRangeKernel,                                                                \
    (cl_command_queue, cl_kernel, cl_uint, const size_t*, const size_t*, const size_t*, cl_uint, \
     const cl_event*, cl_event*))                                                                \
  X(cl_int, EnqueueMarkerWithWaitList, (cl_command_queue, cl_uint, const cl_event*, cl_event*))  \
  X(cl_int, GetEventInfo, (cl_event, cl_uint, size_t, void*, size_t*))                           \
  X(cl_int, WaitForEvents, (cl_uint, const cl_event*))                                           \
  X(cl_int, GetEventProfilingInfo, (cl_event, cl_uint, size_t, void*, size_t*))                  \
  X(cl_int, ReleaseEvent, (cl_event))                                                            \
  X(cl_int, Flush, (cl_command_queue))                                                           \
  X(cl_int, Finish, (cl_command_queue))

/*! \brief Functions of OpenCL 2.0 for shared virtual memory; null where the library has none. */
#define HETERO_CL_SVM_FUNCTIONS(X)                                                                \
  X(void*, SVMAlloc, (cl_context, cl_bitfield, size_t, cl_uint))                                  \
  X(void, SVMFree, (cl_context, void*))                                                           \
  X(cl_int, SetKernelArgSVMPointer, (cl_kernel, cl_uint, const void*))                            \
  X(cl_int, EnqueueSVMMap,                                                                        \
    (cl_command_queue, cl_bool, cl_bitfield, void*, size_t, cl_uint, const cl_event*, cl_event*)) \
  X(cl_int, EnqueueSVMUnmap, (cl_command_queue, void*, cl_uint, const cl_event*, cl_event*))

/*! \brief Functions for images, which a device need not have; null where the library has none. */
#define HETERO_CL_IMAGE_FUNCTIONS(X) \
  X(cl_mem, CreateImage,             \
    (cl_context, cl_bitfield, const ClImageFormat*, const ClImageDescription*, void*, cl_int*))

/*! \brief Functions of OpenCL 2.1; null where the library has none. */
#define HETERO_CL_TIMER_FUNCTIONS(X) \
  X(cl_int, GetDeviceAndHostTimer, (cl_device_id, cl_ulong*, cl_ulong*))

/*! \brief One OpenCL library's functions, without the `cl` in front. Never unloaded. */
struct ClApi {
  std::string library;  // as it was given to dlopen
#define HETERO_CL_DECLARE(result, name, parameters) Watched<result parameters> name;
  HETERO_CL_FUNCTIONS(HETERO_CL_DECLARE)
  HETERO_CL_SVM_FUNCTIONS(HETERO_CL_DECLARE)
  HETERO_CL_IMAGE_FUNCTIONS(HETERO_CL_DECLARE)
  HETERO_CL_TIMER_FUNCTIONS(HETERO_CL_DECLARE)
#undef HETERO_CL_DECLARE
  bool HasSvm() const { return SVMAlloc != nullptr; }

  /*! \return The library's functions, or null with the reason in `why_not`. */
  static std::unique_ptr<ClApi> Load(const std::string& library, std::string* why_not);
};

/*! \brief "CL_OUT_OF_RESOURCES" for -5, and the number where there is no name. */
std::string ClErrorName(cl_int status);

/*! \brief What somebody can do about it. */
const char* ClAdvice(cl_int status);

/*! \brief "CL_OUT_OF_RESOURCES (-5); the device is ..." */
std::string ClProblem(cl_int status);

/*! \brief Throw DeviceFailure naming the call when it failed. Never in a destructor. */
inline void CheckCl(cl_int status, std::string_view call) {
  if (status != kSuccess) {
    TVM_FFI_THROW(DeviceFailure) << "OpenCL: " << call << " failed: " << ClProblem(status);
  }
}

/*! \brief CheckCl, for a call that makes an object: none is a failure too. */
inline void CheckCl(cl_int status, const void* made, std::string_view call) {
  CheckCl(status == kSuccess && made == nullptr ? kNothingMade : status, call);
}

/*! \brief Sole owner of one OpenCL object: moves, never copies. */
template <typename Handle>
class ClHandle {
 public:
  using Release = Watched<cl_int(Handle)>;  // of a ClApi, which is never unloaded
  ClHandle() = default;
  ClHandle(Handle handle, const Release& release) : handle_(handle), release_(&release) {}
  ClHandle(ClHandle&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), release_(other.release_) {}
  ClHandle& operator=(ClHandle&& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(release_, other.release_);
    return *this;
  }
  ClHandle(const ClHandle&) = delete;
  ClHandle& operator=(const ClHandle&) = delete;
  ~ClHandle() {
    if (handle_ != nullptr) (*release_)(handle_);
  }
  Handle Get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
  const Release* release_ = nullptr;
};

}  // namespace hetero_tvm::runtime::opencl

#endif  // HETERO_TVM_RUNTIME_OPENCL_CL_API_H_
