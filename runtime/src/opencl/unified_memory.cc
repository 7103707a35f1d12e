/*!
 * \file opencl/unified_memory.cc
 * \brief Allocation, ownership and kernel arguments for each kind of shared memory.
 */
#include "unified_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <utility>

#include "../check.h"
#include "dma_buf.h"

namespace hetero_tvm::runtime::opencl {
namespace {

// The largest alignment that clSVMAlloc must accept: OpenCL's largest type, long16.
constexpr size_t kSvmAlignment = 128;
constexpr size_t kPage = 4096;

uintptr_t AddressOf(const void* data) { return reinterpret_cast<uintptr_t>(data); }

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/*! \brief Give back what a buffer was made over. */
void FreeHost(const HostBlock& memory) {
  if (memory.descriptor >= 0) {
    CloseDmaBuf(memory);
  } else {
    std::free(memory.data);
  }
}

}  // namespace

const char* MemoryKindName(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kFineSvm:
      return "svm";
    case MemoryKind::kDmaBuf:
      return "dma_buf";
    case MemoryKind::kCoarseSvm:
      return "coarse_svm";
    case MemoryKind::kBuffer:
      return "buffer";
  }
  return "";
}

MemoryChoice ChooseMemory(const ClDevice& device, const std::string& forced,
                          const std::function<std::string()>& try_dma_buf) {
  constexpr const char* kAsked = "HETERO_OPENCL_MEMORY asks for another kind";
  const bool is_known = forced.empty() || forced == "svm" || forced == "dma_buf" ||
                        forced == "coarse_svm" || forced == "buffer";
  HETERO_CHECK(is_known, ValueError)
      << "HETERO_OPENCL_MEMORY='" << forced << "': give svm, dma_buf, coarse_svm or buffer";
  const bool has_svm = device.has_fine_svm || device.has_coarse_svm;
  if (!has_svm && (forced == "svm" || forced == "coarse_svm")) {
    TVM_FFI_THROW(EnvironmentProblem) << "HETERO_OPENCL_MEMORY=" << forced << ": " << device.name
                                      << " has no shared virtual memory; use buffer";
  }
  if (device.has_fine_svm && (forced.empty() || forced == "svm")) return {MemoryKind::kFineSvm, ""};
  std::string why = std::string("no svm: ") +
                    (device.has_fine_svm ? kAsked : "the driver has no fine-grain buffers");
  // A device with coarse-grain SVM only gives that to who asks for svm.
  if (forced.empty() || forced == "dma_buf") {
    const std::string refused = try_dma_buf();
    if (refused.empty()) return {MemoryKind::kDmaBuf, why};
    if (forced == "dma_buf") {
      TVM_FFI_THROW(EnvironmentProblem) << "HETERO_OPENCL_MEMORY=dma_buf: " << device.name
                                        << " cannot import dma-bufs: " << refused
                                        << "; leave it away for the best kind that there is";
    }
    why += "; no dma_buf: " + refused;
  } else {
    why += std::string("; no dma_buf: ") + kAsked;
  }
  if (device.has_coarse_svm && forced != "buffer") return {MemoryKind::kCoarseSvm, why};
  const char* missing = device.api->HasSvm() ? "the driver has no shared virtual memory"
                                             : "the library is of OpenCL 1.2, without clSVMAlloc";
  why += std::string("; no coarse_svm: ") + (device.has_coarse_svm ? kAsked : missing);
  return {MemoryKind::kBuffer, why};
}

UnifiedMemory::UnifiedMemory(const ClDevice& device, MemoryKind kind, cl_context context,
                             cl_command_queue queue, size_t memory_limit)
    : device_(device),
      api_(*device.api),
      kind_(kind),
      context_(context),
      memory_limit_(memory_limit),
      queue_(queue) {}

UnifiedMemory::~UnifiedMemory() {
  for (auto& [address, allocation] : table_) Release(allocation);
  for (Freed& freed : freed_) Release(freed.allocation);
}

void* UnifiedMemory::Alloc(size_t bytes, size_t alignment) {
  bytes = std::max<size_t>(bytes, 1);
  const size_t natural = HasBuffers() ? kPage : kSvmAlignment;
  const size_t slack = alignment > natural ? alignment : 0;
  const auto limit = static_cast<size_t>(std::max<int64_t>(device_.max_allocation_bytes, 0));
  if (bytes > limit || slack > limit - bytes) {
    TVM_FFI_THROW(DeviceFailure) << "out of memory: " << bytes << " bytes asked of " << device_.name
                                 << ", which gives at most " << limit << " at once";
  }
  if (bytes + slack > memory_limit_ - std::min(held_bytes_, memory_limit_)) {
    TVM_FFI_THROW(DeviceFailure) << "out of memory: " << bytes + slack << " bytes more are needed, "
                                 << held_bytes_ << " are in use, the limit is " << memory_limit_
                                 << " (HETERO_MEMORY_LIMIT); raise it, or build for a smaller "
                                    "input";
  }
  std::string why = "clSVMAlloc";
  Allocation allocation = HasBuffers() ? AllocBuffer(bytes + slack, &why) : AllocSvm(bytes + slack);
  if (allocation.base == nullptr) {
    TVM_FFI_THROW(DeviceFailure) << "out of memory: " << device_.name << " has no " << bytes
                                 << " bytes left, this process holds " << held_bytes_
                                 << "; end other programs, or build for a smaller input (" << why
                                 << ")";
  }
  const uintptr_t address = RoundUp(AddressOf(allocation.base), std::max<size_t>(alignment, 1));
  allocation.bytes = bytes;
  if (kind_ != MemoryKind::kFineSvm) {
    allocation.on_device = true;  // fresh memory is nobody's yet
    try {
      GiveToHost(allocation, kBlocking);
    } catch (const tvm::ffi::Error&) {
      Release(allocation);
      throw;
    }
  }
  held_bytes_ += allocation.block_bytes;
  table_[address] = std::move(allocation);
  return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
}

void* UnifiedMemory::MapFile(const std::string& path, uint64_t offset, size_t bytes) {
  const bool any_page = kind_ == MemoryKind::kFineSvm && device_.has_system_svm;
  const auto most = static_cast<size_t>(std::max<int64_t>(device_.max_allocation_bytes, 0));
  const bool as_buffer = kind_ == MemoryKind::kBuffer && bytes <= most;
  if (bytes == 0 || !(any_page || as_buffer)) return nullptr;
  if (bytes > memory_limit_ - std::min(held_bytes_, memory_limit_)) return nullptr;
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return nullptr;
  // Private: nobody writes to it, but drivers pin pages of a buffer only where they could.
  void* found = mmap(nullptr, bytes, PROT_READ | (as_buffer ? PROT_WRITE : 0), MAP_PRIVATE, file,
                     static_cast<off_t>(offset));
  close(file);
  if (found == MAP_FAILED) return nullptr;
  Allocation allocation;
  if (as_buffer) {
    cl_int status = kSuccess;
    cl_mem buffer =
        api_.CreateBuffer(context_, kMemReadWrite | kMemUseHostPtr, bytes, found, &status);
    if (status != kSuccess || buffer == nullptr) {
      munmap(found, bytes);
      return nullptr;
    }
    allocation.buffer = ClHandle<cl_mem>(buffer, api_.ReleaseMemObject);
  }
  allocation.base = static_cast<char*>(found);
  allocation.block_bytes = bytes;
  allocation.bytes = bytes;
  allocation.on_device = true;
  allocation.is_mapped = true;
  held_bytes_ += bytes;
  table_[AddressOf(found)] = std::move(allocation);
  return found;
}

UnifiedMemory::Allocation UnifiedMemory::AllocSvm(size_t bytes) {
  const cl_bitfield grain = kind_ == MemoryKind::kFineSvm ? kMemSvmFineGrain : 0;
  Allocation allocation;
  allocation.block_bytes = bytes;
  allocation.base =
      static_cast<char*>(api_.SVMAlloc(context_, kMemReadWrite | grain, bytes, kSvmAlignment));
  return allocation;
}

UnifiedMemory::Allocation UnifiedMemory::AllocBuffer(size_t bytes, std::string* why) {
  Allocation allocation;
  // Memory of our own, because only USE_HOST_PTR promises the same address at every mapping;
  // whole pages, because that is what drivers ask for in order not to copy.
  const size_t block = RoundUp(bytes, kPage);
  HostBlock host;
  if (kind_ == MemoryKind::kDmaBuf) {
    host = OpenDmaBuf(block + device_.import_padding_bytes, why);
  } else {
    host = {std::aligned_alloc(kPage, block), block, -1};
    *why = "aligned_alloc";
  }
  if (host.data == nullptr) return allocation;
  const char* call = "clCreateBuffer";
  std::atomic<HostBlock*>* owner = nullptr;
  cl_int status = kSuccess;
  cl_mem buffer =
      kind_ == MemoryKind::kDmaBuf
          ? ImportDmaBuf(api_, context_, host, block, &status)
          : api_.CreateBuffer(context_, kMemReadWrite | kMemUseHostPtr, block, host.data, &status);
  if (status == kSuccess && buffer != nullptr) {
    allocation.buffer = ClHandle<cl_mem>(buffer, api_.ReleaseMemObject);
    call = "clSetMemObjectDestructorCallback";
    // The driver may use the bytes until the object is really gone, so the driver says when.
    // Whoever takes the memory out frees it: a driver may call back though it refused to.
    owner = new std::atomic<HostBlock*>(new HostBlock(host));
    const auto free_host = [](cl_mem, void* its_owner) {
      auto* taken = static_cast<std::atomic<HostBlock*>*>(its_owner);
      const std::unique_ptr<HostBlock> memory(taken->exchange(nullptr));
      if (memory != nullptr) FreeHost(*memory);
      delete taken;
    };
    status = api_.SetMemObjectDestructorCallback(buffer, free_host, owner);
  }
  if (status != kSuccess || buffer == nullptr) {
    if (owner != nullptr) delete owner->exchange(nullptr);
    allocation.buffer = {};  // first: the driver may use the bytes as long as it has it
    FreeHost(host);          // its owner is left behind where there is one: the driver may know it
    *why = std::string(call) + ": " + ClErrorName(status) + " (" + std::to_string(status) + ")";
    return {};
  }
  allocation.base = static_cast<char*>(host.data);
  allocation.block_bytes = block;
  return allocation;
}

void UnifiedMemory::GiveToHost(Allocation& allocation, cl_bool blocking) {
  if (kind_ == MemoryKind::kCoarseSvm) {
    CheckCl(api_.EnqueueSVMMap(queue_, blocking, kMapReadWrite, allocation.base,
                               allocation.block_bytes, 0, nullptr, nullptr),
            "clEnqueueSVMMap");
    allocation.on_device = false;
    return;
  }
  cl_int status = kSuccess;
  const void* mapped =
      api_.EnqueueMapBuffer(queue_, allocation.buffer.Get(), blocking, kMapReadWrite, 0,
                            allocation.block_bytes, 0, nullptr, nullptr, &status);
  CheckCl(status, "clEnqueueMapBuffer");
  HETERO_CHECK(mapped == allocation.base, DeviceFailure)
      << device_.name << " maps host memory to another address, against the OpenCL standard "
      << "(clEnqueueMapBuffer); update the driver, or choose another device";
  allocation.on_device = false;
}

void UnifiedMemory::GiveToDevice(Table::iterator entry) {
  Allocation& allocation = entry->second;
  if (kind_ == MemoryKind::kFineSvm || allocation.on_device) return;
  if (allocation.is_unsure) {
    GiveToHost(allocation, kBlocking);
    allocation.is_unsure = false;
  }
  allocation.is_unsure = true;  // until the driver has said that it did it
  const cl_int status = kind_ == MemoryKind::kCoarseSvm
                            ? api_.EnqueueSVMUnmap(queue_, allocation.base, 0, nullptr, nullptr)
                            : api_.EnqueueUnmapMemObject(queue_, allocation.buffer.Get(),
                                                         allocation.base, 0, nullptr, nullptr);
  CheckCl(status,
          kind_ == MemoryKind::kCoarseSvm ? "clEnqueueSVMUnmap" : "clEnqueueUnmapMemObject");
  allocation.is_unsure = false;
  allocation.on_device = true;
  on_device_.push_back(entry->first);
}

void UnifiedMemory::MapForHost() {
  while (!on_device_.empty()) {
    const auto entry = table_.find(on_device_.back());
    // Else freed meanwhile, or freed and the address given out again.
    if (entry != table_.end() && entry->second.on_device) GiveToHost(entry->second, kNonBlocking);
    on_device_.pop_back();  // only now: what failed is tried again
  }
}

UnifiedMemory::Table::iterator UnifiedMemory::Find(const void* data, cl_uint index,
                                                   const std::string& kernel_name) {
  const uintptr_t address = AddressOf(data);
  auto entry = table_.upper_bound(address);  // the first allocation above `data`
  const bool is_below_all = entry == table_.begin();
  if (!is_below_all) --entry;
  if (is_below_all || address - entry->first >= entry->second.bytes) {
    TVM_FFI_THROW(ValueError) << "argument " << index << " of kernel " << kernel_name
                              << " is not memory of " << device_.name
                              << "; allocate it on the opencl device";
  }
  return entry;
}

void UnifiedMemory::Bind(cl_kernel kernel, cl_uint index, void* data,
                         const std::string& kernel_name) {
  const auto entry = Find(data, index, kernel_name);
  cl_int status = kSuccess;
  if (HasBuffers()) {
    const size_t offset = AddressOf(data) - AddressOf(entry->second.base);
    cl_mem buffer = BufferAt(entry->second, offset, index, kernel_name);
    status = api_.SetKernelArg(kernel, index, sizeof(cl_mem), static_cast<const void*>(&buffer));
  } else {
    status = api_.SetKernelArgSVMPointer(kernel, index, data);
  }
  if (status != kSuccess) {
    TVM_FFI_THROW(DeviceFailure) << "OpenCL: argument " << index << " of kernel " << kernel_name
                                 << " was refused ("
                                 << (HasBuffers() ? "clSetKernelArg" : "clSetKernelArgSVMPointer")
                                 << "): " << ClProblem(status);
  }
  GiveToDevice(entry);
}

void UnifiedMemory::BindImage(cl_kernel kernel, cl_uint index, void* data,
                              const ImageArgument& image, const std::string& kernel_name) {
  const auto entry = Find(data, index, kernel_name);
  Allocation& allocation = entry->second;
  const size_t begins = AddressOf(data) - entry->first;
  if (image.pixels * image.pixel_bytes > allocation.bytes - begins) {
    TVM_FFI_THROW(ValueError) << "argument " << index << " of kernel " << kernel_name << " has "
                              << allocation.bytes - begins << " bytes, the kernel reads "
                              << image.pixels * image.pixel_bytes;
  }
  cl_int status = kSuccess;
  if (allocation.buffer.Get() == nullptr) {
    // By the standard such a buffer shares the bytes of the shared virtual memory.
    cl_mem buffer = api_.CreateBuffer(context_, kMemReadWrite | kMemUseHostPtr,
                                      allocation.block_bytes, allocation.base, &status);
    CheckCl(status, buffer, "clCreateBuffer over shared virtual memory");
    allocation.buffer = ClHandle<cl_mem>(buffer, api_.ReleaseMemObject);
  }
  const size_t offset = AddressOf(data) - AddressOf(allocation.base);
  ClHandle<cl_mem>& made = allocation.images[{offset, image.channel, image.pixels}];
  if (made.Get() == nullptr) {
    const ClImageFormat format{kFourChannels, image.channel};
    ClImageDescription described{};
    described.type = kImageOfBuffer;
    described.width = image.pixels;
    described.buffer = BufferAt(allocation, offset, index, kernel_name);
    cl_mem handle = api_.CreateImage(context_, kMemReadOnly, &format, &described, nullptr, &status);
    CheckCl(status, handle, "clCreateImage of " + std::to_string(image.pixels) + " pixels");
    made = ClHandle<cl_mem>(handle, api_.ReleaseMemObject);
  }
  cl_mem handle = made.Get();
  status = api_.SetKernelArg(kernel, index, sizeof(cl_mem), static_cast<const void*>(&handle));
  if (status != kSuccess) {
    TVM_FFI_THROW(DeviceFailure) << "OpenCL: argument " << index << " of kernel " << kernel_name
                                 << ", an image, was refused (clSetKernelArg): "
                                 << ClProblem(status);
  }
  GiveToDevice(entry);
}

cl_mem UnifiedMemory::BufferAt(Allocation& allocation, size_t offset, cl_uint index,
                               const std::string& kernel) {
  if (offset == 0) return allocation.buffer.Get();
  const auto known = allocation.sub_buffers.find(offset);
  if (known != allocation.sub_buffers.end()) return known->second.Get();
  const auto alignment = static_cast<size_t>(device_.sub_buffer_alignment_bytes);
  // A copy to an aligned place could not be written back safely when another argument is a view
  // of the same memory, so an unaligned view is refused.
  if (offset % alignment != 0) {
    TVM_FFI_THROW(ValueError) << "argument " << index << " of kernel " << kernel << " begins "
                              << offset << " bytes into its memory; without shared virtual memory "
                              << device_.name << " takes views at multiples of " << alignment
                              << " bytes only";
  }
  const ClBufferRegion region{offset, allocation.block_bytes - offset};
  cl_int status = kSuccess;
  cl_mem part = api_.CreateSubBuffer(allocation.buffer.Get(), kMemReadWrite,
                                     kBufferCreateTypeRegion, &region, &status);
  CheckCl(status, part, "clCreateSubBuffer");
  allocation.sub_buffers[offset] = ClHandle<cl_mem>(part, api_.ReleaseMemObject);
  return part;
}

void UnifiedMemory::Free(void* data, uint64_t after) {
  if (data == nullptr) return;
  const auto entry = table_.find(AddressOf(data));
  HETERO_CHECK(entry != table_.end(), ValueError)
      << "memory given back to " << device_.name << " did not come from it";
  freed_bytes_ += entry->second.block_bytes;
  freed_.push_back({after, std::move(entry->second)});
  table_.erase(entry);
}

void UnifiedMemory::ReleaseFreed(uint64_t completed) {
  while (!freed_.empty() && freed_.front().after <= completed) {
    Release(freed_.front().allocation);
    freed_bytes_ -= freed_.front().allocation.block_bytes;
    held_bytes_ -= freed_.front().allocation.block_bytes;
    freed_.pop_front();
  }
}

void UnifiedMemory::Release(Allocation& allocation) {
  if (allocation.is_mapped) {
    // No kernel uses it any more, so the driver lets go of it now.
    allocation.images.clear();
    allocation.sub_buffers.clear();
    allocation.buffer = {};
    munmap(allocation.base, allocation.block_bytes);
    return;
  }
  const bool is_buffer = HasBuffers();
  allocation.images.clear();  // before what they lie in
  allocation.sub_buffers.clear();
  if (!is_buffer) allocation.buffer = {};
  if (!allocation.on_device && kind_ == MemoryKind::kCoarseSvm) {
    api_.EnqueueSVMUnmap(queue_, allocation.base, 0, nullptr, nullptr);
    api_.Finish(queue_);  // clSVMFree does not wait for the unmapping
  } else if (!allocation.on_device && is_buffer) {
    api_.EnqueueUnmapMemObject(queue_, allocation.buffer.Get(), allocation.base, 0, nullptr,
                               nullptr);
  }
  if (!is_buffer) api_.SVMFree(context_, allocation.base);
}

}  // namespace hetero_tvm::runtime::opencl
