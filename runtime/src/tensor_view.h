/*!
 * \file tensor_view.h
 * \brief A part of a tensor's memory as a tensor of its own.
 */
#ifndef HETERO_TVM_RUNTIME_TENSOR_VIEW_H_
#define HETERO_TVM_RUNTIME_TENSOR_VIEW_H_

#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/container/tensor.h>

#include <cstdint>

namespace hetero_tvm::runtime {

/*!
 * \brief The `shape` at `byte_offset` in `base`, of the same type; keeps `base` alive.
 *
 * Unlike TVM's own views the data pointer is advanced and the view's byte_offset is 0, which
 * compiled kernels insist on. Throws ValueError, with the numbers, when `base` is not dense or the
 * view does not lie inside it.
 */
tvm::ffi::Tensor ViewTensor(const tvm::ffi::Tensor& base, int64_t byte_offset,
                            const tvm::ffi::Shape& shape);

/*! \brief The same of any type: `base` is bytes that hold many tensors. */
tvm::ffi::Tensor ViewTensorAs(const tvm::ffi::Tensor& base, int64_t byte_offset,
                              const tvm::ffi::Shape& shape, DLDataType dtype);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_TENSOR_VIEW_H_
