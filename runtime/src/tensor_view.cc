/*!
 * \file tensor_view.cc
 * \brief Views whose data pointer says where they begin.
 */
#include "tensor_view.h"

#include <tvm/ffi/error.h>

#include <cstddef>
#include <vector>

#include "check.h"

namespace hetero_tvm::runtime {

namespace ffi = tvm::ffi;

ffi::Tensor ViewTensor(const ffi::Tensor& base, int64_t byte_offset, const ffi::Shape& shape) {
  return ViewTensorAs(base, byte_offset, shape, base.dtype());
}

ffi::Tensor ViewTensorAs(const ffi::Tensor& base, int64_t byte_offset, const ffi::Shape& shape,
                         DLDataType dtype) {
  HETERO_CHECK(base.IsContiguous(), ValueError)
      << "view: the tensor has gaps between its elements; make it contiguous";
  const size_t available = ffi::GetDataSize(*base.GetDLTensorPtr());
  // An element has a bit at least, so no more than these can lie in it.
  const size_t most = 8 * available;
  size_t elements = 1;
  for (const int64_t extent : shape) {
    HETERO_CHECK(extent >= 0, ValueError)
        << "view: the shape " << shape << " has a negative extent";
    const auto count = static_cast<size_t>(extent);
    elements = count != 0 && elements > most / count ? most + 1 : elements * count;
  }
  const size_t bytes = ffi::GetDataSize(elements, dtype);
  const bool inside = byte_offset >= 0 && static_cast<size_t>(byte_offset) <= available &&
                      bytes <= available - static_cast<size_t>(byte_offset);
  HETERO_CHECK(inside, ValueError) << "view: shape " << shape << " at byte " << byte_offset
                                   << " reaches beyond the tensor's " << available << " bytes";
  std::vector<int64_t> strides(shape.size() + 1);  // tvm-ffi wants an address always
  uint64_t stride = 1;  // may wrap around where there are no elements, and nobody looks
  for (size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = static_cast<int64_t>(stride);
    stride *= static_cast<uint64_t>(shape[axis]);
  }
  DLTensor view = *base.GetDLTensorPtr();
  view.data = static_cast<char*>(view.data) + view.byte_offset + byte_offset;
  view.byte_offset = 0;
  view.dtype = dtype;
  view.ndim = static_cast<int>(shape.size());
  view.shape = const_cast<int64_t*>(shape.data());  // read only, and copied
  view.strides = strides.data();
  TVMFFIObjectHandle made = nullptr;
  TVM_FFI_CHECK_SAFE_CALL(TVMFFITensorCreateUnsafeView(
      ffi::details::ObjectUnsafe::TVMFFIObjectPtrFromObjectRef(base), &view, &made));
  return ffi::Tensor(ffi::details::ObjectUnsafe::ObjectPtrFromOwned<ffi::TensorObj>(
      static_cast<TVMFFIObject*>(made)));
}

}  // namespace hetero_tvm::runtime
