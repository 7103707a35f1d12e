/*!
 * \file opencl/kernel_table.h
 * \brief TVM's serialised OpenCL module, taken apart: every kernel's signature and source.
 */
#ifndef HETERO_TVM_RUNTIME_OPENCL_KERNEL_TABLE_H_
#define HETERO_TVM_RUNTIME_OPENCL_KERNEL_TABLE_H_

#include <tvm/ffi/container/map.h>
#include <tvm/ffi/object.h>
#include <tvm/ffi/string.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace hetero_tvm::runtime::opencl {

/*! \brief An argument that a kernel reads as an image over a buffer, if the device has such. */
struct ImageArgument {
  uint32_t channel;  // OpenCL's number of what a channel is; a pixel has four
  size_t pixel_bytes;
  size_t pixels;
};

/*! \brief How one kernel is called: its arguments, then one integer for each launch parameter. */
struct KernelInfo {
  std::vector<DLDataType> arg_types;
  std::vector<std::string> launch_tags;      // "blockIdx.x", "threadIdx.x", ...
  std::vector<int32_t> extra_tags;           // TVM's ArgExtraTags; all 0 for OpenCL
  std::string_view source;                   // self-contained part of KernelTable::code
  std::map<uint32_t, ImageArgument> images;  // by the argument's number; as the source declares
};

/*!
 * \brief A whole module. Immutable once made.
 *
 * Wire format: format, {key: name, argument types, launch tags, extra tags}, code. A dtype is
 * (u8 code, u8 bits, u16 lanes). In the code each kernel's part begins with "// Function: <name>".
 *
 * An argument declared as hetero_image_TYPE_t, with a number of pixels as a comment before its
 * name, is an image over a buffer. TYPE is float, half, int or uint, four of which are a pixel.
 * Where HETERO_BUFFERS is defined the same source takes a pointer (schedules/image_reads.py).
 */
class KernelTable {
 public:
  /*! \brief From serialised bytes. Throws ValueError when they are damaged. */
  static std::unique_ptr<const KernelTable> Parse(std::string_view bytes);

  /*! \brief From TVM's code generator: `functions` maps names to runtime.FunctionInfo objects. */
  static std::unique_ptr<const KernelTable> FromCompiler(
      std::string_view code, std::string_view format,
      const tvm::ffi::Map<tvm::ffi::String, tvm::ffi::ObjectRef>& functions);

  KernelTable(const KernelTable&) = delete;
  KernelTable& operator=(const KernelTable&) = delete;

  std::string Serialize() const;
  const std::string& code() const { return code_; }
  const std::map<std::string, KernelInfo>& kernels() const { return kernels_; }

 private:
  KernelTable(std::string format, std::string code, std::map<std::string, KernelInfo> kernels);
  void AttachSources();

  const std::string format_;
  const std::string code_;  // kernels_' sources point into it, hence no moves
  std::map<std::string, KernelInfo> kernels_;
};

}  // namespace hetero_tvm::runtime::opencl

#endif  // HETERO_TVM_RUNTIME_OPENCL_KERNEL_TABLE_H_
