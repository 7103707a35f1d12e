/*!
 * \file opencl/dma_buf.cc
 * \brief Linux's dma-buf heaps, and Qualcomm's import.
 */
#include "dma_buf.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <tvm/ffi/error.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

namespace hetero_tvm::runtime::opencl {
namespace {

constexpr std::array kHeaps = {"/dev/dma_heap/qcom,system", "/dev/dma_heap/system"};

/*! \brief `struct dma_heap_allocation_data` of linux/dma-heap.h, which older headers lack. */
struct HeapRequest {
  uint64_t bytes;
  uint32_t descriptor;
  uint32_t descriptor_flags;
  uint64_t heap_flags;
};
constexpr unsigned long kHeapAlloc = _IOWR('H', 0x0, HeapRequest);

/*! \brief `cl_mem_dmabuf_host_ptr` of Qualcomm's cl_ext_qcom.h. */
struct HostPointer {
  cl_uint allocation_type;
  cl_uint host_cache_policy;
  int descriptor;
  void* data;
};
constexpr cl_bitfield kMemExtHostPtr = cl_bitfield{1} << 29U;
constexpr cl_uint kDmaBufHostPtr = 0x411D;
constexpr cl_uint kHostIoCoherent = 0x40A9;

constexpr size_t kPage = 4096;

// Asks for byte 0, which the host writes, and answers in byte 1.
constexpr const char* kProbe = "hetero_probe_page";
constexpr const char* kProbeSource =
    "__kernel void hetero_probe_page(__global uchar* page) { page[1] = page[0] ^ 0xFF; }\n";
constexpr unsigned char kAsked = 0x5A;
constexpr unsigned char kAnswer = kAsked ^ 0xFF;

std::string SystemProblem(const char* call, const std::string& on) {
  return std::string(call) + " " + on + ": " + std::strerror(errno);
}

std::string Refusal(const char* call, cl_int status) {
  return std::string(call) + " refuses it: " + ClErrorName(status) + " (" + std::to_string(status) +
         ")";
}

/*! \brief Map all of `buffer` for the host and give it back. \return What is wrong, if anything. */
std::string MapAndUnmap(const ClApi& api, cl_command_queue queue, cl_mem buffer,
                        const void* expected) {
  cl_int status = kSuccess;
  void* mapped = api.EnqueueMapBuffer(queue, buffer, kBlocking, kMapReadWrite, 0, kPage, 0, nullptr,
                                      nullptr, &status);
  if (status != kSuccess) return Refusal("clEnqueueMapBuffer", status);
  if (mapped != expected) return "the driver maps it to another address";
  status = api.EnqueueUnmapMemObject(queue, buffer, mapped, 0, nullptr, nullptr);
  return status == kSuccess ? "" : Refusal("clEnqueueUnmapMemObject", status);
}

/*! \brief Import the page, and have a kernel and the host see each other's bytes in it. */
std::string TryPage(const ClApi& api, cl_context context, cl_command_queue queue,
                    const ProgramCache& programs, const HostBlock& page) {
  const ClHandle<cl_program> program = programs.Build(kProbe, kProbeSource);
  cl_int status = kSuccess;
  const ClHandle<cl_kernel> kernel(api.CreateKernel(program.Get(), kProbe, &status),
                                   api.ReleaseKernel);
  if (status != kSuccess) return Refusal("clCreateKernel", status);
  const ClHandle<cl_mem> buffer(ImportDmaBuf(api, context, page, kPage, &status),
                                api.ReleaseMemObject);
  if (status == kSuccess && buffer.Get() == nullptr) status = kNothingMade;
  if (status != kSuccess) return Refusal("clCreateBuffer", status);
  cl_mem argument = buffer.Get();
  auto* bytes = static_cast<volatile unsigned char*>(page.data);  // a device writes it too
  bytes[0] = kAsked;
  bytes[1] = 0;
  // First: what the kernel may write to is known to be the page.
  std::string why = MapAndUnmap(api, queue, argument, page.data);
  if (!why.empty()) return why;
  const size_t one = 1;
  status = api.SetKernelArg(kernel.Get(), 0, sizeof(cl_mem), static_cast<const void*>(&argument));
  if (status != kSuccess) return Refusal("clSetKernelArg", status);
  status =
      api.EnqueueNDRangeKernel(queue, kernel.Get(), 1, nullptr, &one, nullptr, 0, nullptr, nullptr);
  if (status != kSuccess) return Refusal("clEnqueueNDRangeKernel", status);
  why = MapAndUnmap(api, queue, argument, page.data);
  status = api.Finish(queue);  // also after a failure: nothing may use the page after this
  if (!why.empty()) return why;
  if (status != kSuccess) return Refusal("clFinish", status);
  return bytes[1] == kAnswer ? "" : "a kernel and the host do not see each other's bytes in it";
}

}  // namespace

HostBlock OpenDmaBuf(size_t bytes, std::string* why) {
  int heap = -1;
  std::string tried;
  for (const char* path : kHeaps) {
    heap = open(path, O_RDONLY | O_CLOEXEC);
    if (heap >= 0) {
      tried = path;
      break;
    }
    tried += (tried.empty() ? "" : ", ") + SystemProblem("open", path);
  }
  *why = tried;
  if (heap < 0) return {};
  HeapRequest request{bytes, 0, O_RDWR | O_CLOEXEC, 0};
  const bool is_given = ioctl(heap, kHeapAlloc, &request) == 0;
  if (!is_given) *why = SystemProblem("DMA_HEAP_IOCTL_ALLOC of", tried);
  close(heap);
  if (!is_given) return {};
  const int descriptor = static_cast<int>(request.descriptor);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) {
    *why = SystemProblem("mmap of a dma-buf of", tried);
    close(descriptor);
    return {};
  }
  return {data, bytes, descriptor};
}

void CloseDmaBuf(const HostBlock& memory) {
  munmap(memory.data, memory.bytes);
  close(memory.descriptor);
}

cl_mem ImportDmaBuf(const ClApi& api, cl_context context, const HostBlock& memory, size_t bytes,
                    cl_int* status) {
  HostPointer pointer{kDmaBufHostPtr, kHostIoCoherent, memory.descriptor, memory.data};
  // The extension asks for USE_HOST_PTR beside its own flag.
  return api.CreateBuffer(context, kMemReadWrite | kMemUseHostPtr | kMemExtHostPtr, bytes, &pointer,
                          status);
}

std::string_view WhyNoDmaBuf(const ClDevice& device) {
  switch (device.dma_buf) {
    case DmaBufImport::kNone:
      return "the driver lacks cl_qcom_dmabuf_host_ptr";
    case DmaBufImport::kWithoutAddress:
      return "the driver has cl_khr_external_memory_dma_buf only, which promises no address";
    case DmaBufImport::kIncoherent:
      return "the driver lacks cl_qcom_ext_host_ptr_iocoherent, without which the host's cache "
             "would be flushed at every change of hands";
    case DmaBufImport::kYes:
      return "";
  }
  return "";
}

std::string TryDmaBuf(const ClDevice& device, cl_context context, cl_command_queue queue,
                      const ProgramCache& programs) {
  std::string why(WhyNoDmaBuf(device));
  if (!why.empty()) return why;
  const HostBlock page = OpenDmaBuf(kPage + device.import_padding_bytes, &why);
  if (page.data == nullptr) return why;
  try {
    why = TryPage(*device.api, context, queue, programs, page);
  } catch (const tvm::ffi::Error& error) {
    why = error.message();  // the compiler's: whoever needs a kernel will hear of it again
  }
  CloseDmaBuf(page);
  return why;
}

}  // namespace hetero_tvm::runtime::opencl
