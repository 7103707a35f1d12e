/*!
 * \file device/npy.h
 * \brief Dense arrays in numpy's format 1.0.
 */
#ifndef HETERO_TVM_DEVICE_NPY_H_
#define HETERO_TVM_DEVICE_NPY_H_

#include <iosfwd>
#include <string>

#include "../src/c_api/manifest.h"

namespace hetero_tvm::device {

using Border = runtime::BorderTensor;

/*!
 * \brief The elements of the array in `path`.
 *
 * Throws ValueError where it cannot be read or has not `tensor`'s dtype and shape.
 */
std::string ReadNpy(const std::string& path, const Border& tensor);

/*! \brief As above, from any stream; `name` stands in errors. */
std::string ReadNpy(std::istream& file, const std::string& name, const Border& tensor);

/*! \brief Write `bytes`, elements of `tensor`, to `path`. Throws RuntimeError where that fails. */
void WriteNpy(const std::string& path, const Border& tensor, const std::string& bytes);

/*! \brief Bytes of one element of `dtype`; ValueError where numpy's format has no such dtype. */
size_t ElementBytes(const std::string& dtype);

}  // namespace hetero_tvm::device

#endif  // HETERO_TVM_DEVICE_NPY_H_
