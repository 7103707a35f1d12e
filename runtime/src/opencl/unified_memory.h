/*!
 * \file opencl/unified_memory.h
 * \brief Device memory that the host reads and writes at the address in DLTensor.data.
 */
#ifndef HETERO_TVM_RUNTIME_OPENCL_UNIFIED_MEMORY_H_
#define HETERO_TVM_RUNTIME_OPENCL_UNIFIED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "cl_api.h"
#include "kernel_table.h"
#include "platforms.h"

namespace hetero_tvm::runtime::opencl {

/*!
 * \brief How host and device come to share bytes.
 *
 *   kFineSvm    one address for both, no further ado.
 *   kCoarseSvm  one address, but an allocation belongs to one side at a time: mapped = host's.
 *   kDmaBuf     a cl_mem over an imported dma-buf; belongs to one side at a time too.
 *   kBuffer     a cl_mem whose mapping is the host's address; likewise.
 *
 * Where ownership changes hands, an allocation is the host's when it is made and after
 * MapForHost(), and the device's from the launch of a kernel that takes it until then. The caller
 * drains the queue before it touches memory from the host in every kind, so nobody sees the
 * difference.
 */
enum class MemoryKind { kFineSvm, kDmaBuf, kCoarseSvm, kBuffer };

const char* MemoryKindName(MemoryKind kind);

/*! \brief A kind of memory, and why not a better one. */
struct MemoryChoice {
  MemoryKind kind;
  std::string why;  // for people: a sentence for each better way, the best first
};

/*!
 * \brief The best kind that `device` has, or the one that `forced` names if it has it.
 *
 * Best first: fine-grain SVM, where nothing changes hands and a view may begin anywhere; dma-bufs;
 * coarse-grain SVM; buffers over memory of our own, which a driver may copy.
 *
 * \param try_dma_buf Tries an import, and says why it does not work; called when it would be used.
 */
MemoryChoice ChooseMemory(const ClDevice& device, const std::string& forced,
                          const std::function<std::string()>& try_dma_buf);

/*!
 * \brief All memory of one device, found by address.
 *
 * Not thread-safe: the owner (ClSession) holds its lock around every call.
 */
class UnifiedMemory {
 public:
  UnifiedMemory(const ClDevice& device, MemoryKind kind, cl_context context, cl_command_queue queue,
                size_t memory_limit);
  UnifiedMemory(const UnifiedMemory&) = delete;
  UnifiedMemory& operator=(const UnifiedMemory&) = delete;
  ~UnifiedMemory();

  MemoryKind kind() const { return kind_; }

  /*! \brief Bytes taken of the driver. */
  size_t HeldBytes() const { return held_bytes_; }

  /*! \brief `bytes` of memory at a multiple of `alignment`. Throws DeviceFailure when there is
   * none. */
  void* Alloc(size_t bytes, size_t alignment);

  /*!
   * \brief Map `bytes` at `offset`, a multiple of the page size, of the file at `path`, for kernels
   *        to read where they lie.
   *
   * Null where this kind of memory cannot have foreign pages without a copy, or the file cannot be
   * mapped. Not for the host to write, nor to be handed over: nobody changes it. Free() gives it
   * back.
   */
  void* MapFile(const std::string& path, uint64_t offset, size_t bytes);

  /*!
   * \brief Give memory back once the queue has finished all work up to `after`.
   *
   * Kernels that are still queued may use it. Ignores null.
   */
  void Free(void* data, uint64_t after);

  /*! \brief Really free what was waiting for the work up to `completed`. */
  void ReleaseFreed(uint64_t completed);

  /*! \brief Bytes given to Free() that are not released yet. */
  size_t FreedBytes() const { return freed_bytes_; }

  /*!
   * \brief Make `data` (anywhere inside an allocation) argument `index` of `kernel`, the device's.
   * \param kernel_name Named in errors.
   */
  void Bind(cl_kernel kernel, cl_uint index, void* data, const std::string& kernel_name);

  /*!
   * \brief As Bind, for an argument that is an image over the memory at `data`; copies nothing.
   *
   * Throws ValueError where the image would reach past the allocation.
   */
  void BindImage(cl_kernel kernel, cl_uint index, void* data, const ImageArgument& image,
                 const std::string& kernel_name);

  /*!
   * \brief Queue the giving back of every allocation to the host. It is done when a command that
   * is queued afterwards is.
   */
  void MapForHost();

  /*! \brief Use another queue from now on. Requires: nothing is queued in the one so far. */
  void SetQueue(cl_command_queue queue) { queue_ = queue; }

 private:
  struct Allocation {
    char* base = nullptr;     // what the driver gave; the user's address may lie above it
    size_t block_bytes = 0;   // from `base` on
    size_t bytes = 0;         // from the user's address on
    bool on_device = false;   // whose turn it is; see MemoryKind
    bool is_unsure = false;   // the driver failed to hand it over, or so it said
    bool is_mapped = false;   // pages of a file; on_device from the beginning
    ClHandle<cl_mem> buffer;  // SVM: made over it where an image is wanted
    std::map<size_t, ClHandle<cl_mem>> sub_buffers;  // by offset from `base`; parts of `buffer`
    std::map<std::tuple<size_t, cl_uint, size_t>, ClHandle<cl_mem>>
        images;  // offset, channel, pixels
  };
  struct Freed {
    uint64_t after;
    Allocation allocation;
  };
  using Table = std::map<uintptr_t, Allocation>;

  Allocation AllocSvm(size_t bytes);
  Allocation AllocBuffer(size_t bytes, std::string* why);
  bool HasBuffers() const { return kind_ == MemoryKind::kBuffer || kind_ == MemoryKind::kDmaBuf; }
  void GiveToHost(Allocation& allocation, cl_bool blocking);
  void GiveToDevice(Table::iterator entry);
  /*! \brief The allocation that `data` lies in, as argument `index` of a kernel. */
  Table::iterator Find(const void* data, cl_uint index, const std::string& kernel);
  cl_mem BufferAt(Allocation& allocation, size_t offset, cl_uint index, const std::string& kernel);
  void Release(Allocation& allocation);

  const ClDevice& device_;
  const ClApi& api_;
  const MemoryKind kind_;
  const cl_context context_;
  const size_t memory_limit_;
  cl_command_queue queue_;
  Table table_;                       // by the user's address
  std::vector<uintptr_t> on_device_;  // addresses handed over since the last MapForHost()
  std::deque<Freed> freed_;
  size_t freed_bytes_ = 0;
  size_t held_bytes_ = 0;  // in table_ and freed_
};

}  // namespace hetero_tvm::runtime::opencl

#endif  // HETERO_TVM_RUNTIME_OPENCL_UNIFIED_MEMORY_H_
