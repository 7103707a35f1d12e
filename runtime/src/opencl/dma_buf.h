/*!
 * \file opencl/dma_buf.h
 * \brief Memory of the kernel's dma-buf heaps, which the GPU's driver takes as it is.
 *
 * A buffer of USE_HOST_PTR may be copied by its driver behind our back; a dma-buf that it imports
 * through cl_qcom_dmabuf_host_ptr is memory that GPU, host and any driver that knows its descriptor
 * have in common. Import by cl_khr_external_memory_dma_buf is not used: it promises no address for
 * the host, and DLTensor.data is one.
 */
#ifndef HETERO_TVM_RUNTIME_OPENCL_DMA_BUF_H_
#define HETERO_TVM_RUNTIME_OPENCL_DMA_BUF_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "cl_api.h"
#include "platforms.h"
#include "program_cache.h"

namespace hetero_tvm::runtime::opencl {

/*!
 * \brief Memory that a buffer is made over: a mapped dma-buf, or the process's own.
 *
 * Plain data: whoever has it gives it back.
 */
struct HostBlock {
  void* data = nullptr;
  size_t bytes = 0;
  int descriptor = -1;  // of the dma-buf; -1: it is none
};

/*!
 * \brief A dma-buf of at least `bytes`. Null `data`, and the reason in `why`, without one.
 *
 * Its descriptor stays open as long as the memory is used: nothing says that drivers take their
 * own.
 */
HostBlock OpenDmaBuf(size_t bytes, std::string* why);

void CloseDmaBuf(const HostBlock& memory);

/*!
 * \brief The first `bytes` of a dma-buf as a buffer; null, and the failing code in `status`, if the
 *        driver refuses. Requires: it is larger than that by `ClDevice::import_padding_bytes`.
 */
cl_mem ImportDmaBuf(const ClApi& api, cl_context context, const HostBlock& memory, size_t bytes,
                    cl_int* status);

/*! \brief Why `device` cannot import dma-bufs, by what its driver says; empty where it may. */
std::string_view WhyNoDmaBuf(const ClDevice& device);

/*!
 * \brief Why dma-bufs do not work here; empty where they do. Never throws.
 *
 * One page is imported and mapped, and a kernel reads what the host wrote and answers.
 *
 * \param queue Nothing is queued in it.
 */
std::string TryDmaBuf(const ClDevice& device, cl_context context, cl_command_queue queue,
                      const ProgramCache& programs);

}  // namespace hetero_tvm::runtime::opencl

#endif  // HETERO_TVM_RUNTIME_OPENCL_DMA_BUF_H_
