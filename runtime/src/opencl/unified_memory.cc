/*!
 * \file opencl/unified_memory.cc
 * \brief Allocation, ownership and kernel arguments for the three kinds of shared memory.
 */
#include "unified_memory.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace hetero_tvm::runtime::opencl {
namespace {

// The largest alignment that clSVMAlloc must accept: OpenCL's largest type, long16.
constexpr size_t kSvmAlignment = 128;
constexpr size_t kPage = 4096;

uintptr_t AddressOf(const void* data) { return reinterpret_cast<uintptr_t>(data); }

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

const char* MemoryKindName(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kFineSvm:
      return "svm";
    case MemoryKind::kCoarseSvm:
      return "coarse_svm";
    case MemoryKind::kBuffer:
      return "buffer";
  }
  return "";
}

MemoryKind ChooseMemoryKind(const ClDevice& device, const std::string& forced) {
  const auto best = device.has_fine_svm     ? MemoryKind::kFineSvm
                    : device.has_coarse_svm ? MemoryKind::kCoarseSvm
                                            : MemoryKind::kBuffer;
  if (forced.empty()) return best;
  if (forced == "buffer") return MemoryKind::kBuffer;
  if (forced != "svm" && forced != "coarse_svm") {
    TVM_FFI_THROW(ValueError) << "HETERO_OPENCL_MEMORY='" << forced
                              << "': give svm, coarse_svm or buffer";
  }
  if (best == MemoryKind::kBuffer) {
    TVM_FFI_THROW(EnvironmentProblem)
        << "HETERO_OPENCL_MEMORY=" << forced << ": " << device.name
        << " has no shared virtual memory; use buffer";
  }
  return forced == "svm" ? best : MemoryKind::kCoarseSvm;
}

UnifiedMemory::UnifiedMemory(const ClDevice& device, MemoryKind kind, cl_context context,
                             cl_command_queue queue)
    : device_(device), api_(*device.api), kind_(kind), context_(context), queue_(queue) {}

UnifiedMemory::~UnifiedMemory() {
  for (auto& [address, allocation] : table_) Release(allocation);
  for (Freed& freed : freed_) Release(freed.allocation);
}

void* UnifiedMemory::Alloc(size_t bytes, size_t alignment) {
  bytes = std::max<size_t>(bytes, 1);
  alignment = std::max<size_t>(alignment, 1);
  const size_t natural = kind_ == MemoryKind::kBuffer ? kPage : kSvmAlignment;
  const size_t slack = alignment > natural ? alignment : 0;
  const auto limit = static_cast<size_t>(std::max<int64_t>(device_.max_allocation_bytes, 0));
  if (bytes > limit || slack > limit - bytes) {
    TVM_FFI_THROW(DeviceFailure) << "out of memory: " << bytes << " bytes asked of " << device_.name
                                 << ", which gives at most " << limit << " at once";
  }
  Allocation allocation =
      kind_ == MemoryKind::kBuffer ? AllocBuffer(bytes + slack) : AllocSvm(bytes + slack);
  if (allocation.base == nullptr) {
    TVM_FFI_THROW(DeviceFailure) << "out of memory: " << device_.name << " has no " << bytes
                                 << " bytes left";
  }
  const uintptr_t address = RoundUp(AddressOf(allocation.base), alignment);
  allocation.bytes = bytes;
  allocation.on_device = kind_ == MemoryKind::kCoarseSvm;  // fresh coarse SVM is not mapped yet
  Allocation& kept = table_[address] = std::move(allocation);
  if (kept.on_device) GiveToHost(address, kept);
  return reinterpret_cast<void*>(address);
}

UnifiedMemory::Allocation UnifiedMemory::AllocSvm(size_t bytes) {
  const cl_bitfield grain = kind_ == MemoryKind::kFineSvm ? kMemSvmFineGrain : 0;
  Allocation allocation;
  allocation.base =
      static_cast<char*>(api_.SVMAlloc(context_, kMemReadWrite | grain, bytes, kSvmAlignment));
  return allocation;
}

UnifiedMemory::Allocation UnifiedMemory::AllocBuffer(size_t bytes) {
  Allocation allocation;
  // Memory of our own, because only USE_HOST_PTR promises the same address at every mapping.
  // Whole pages, because that is what drivers ask for in order not to copy.
  const size_t block = RoundUp(bytes, kPage);
  allocation.host_block = std::aligned_alloc(kPage, block);
  if (allocation.host_block == nullptr) return allocation;
  cl_int status = kSuccess;
  cl_mem buffer = api_.CreateBuffer(context_, kMemReadWrite | kMemUseHostPtr, block,
                                    allocation.host_block, &status);
  if (status != kSuccess) {
    std::free(allocation.host_block);
    allocation.host_block = nullptr;
    return allocation;
  }
  allocation.buffer = ClHandle<cl_mem>(buffer, api_.ReleaseMemObject);
  allocation.base = static_cast<char*>(allocation.host_block);
  Map(buffer, block);
  return allocation;
}
