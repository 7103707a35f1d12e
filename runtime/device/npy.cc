/*!
 * \file device/npy.cc
 * \brief The header of numpy's files, made and compared.
 */
#include "npy.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <istream>
#include <sstream>

namespace hetero_tvm::device {
namespace {

struct Kind {
  const char* dtype;
  const char* descr;
  size_t bytes;
};

constexpr std::array kKinds = {
    Kind{"float32", "<f4", 4}, Kind{"float16", "<f2", 2}, Kind{"float64", "<f8", 8},
    Kind{"int64", "<i8", 8},   Kind{"int32", "<i4", 4},   Kind{"int16", "<i2", 2},
    Kind{"int8", "|i1", 1},    Kind{"uint8", "|u1", 1},   Kind{"uint16", "<u2", 2},
    Kind{"uint32", "<u4", 4},  Kind{"uint64", "<u8", 8},  Kind{"bool", "|b1", 1}};
constexpr size_t kPrefixBytes = 10;  // magic, version, length of the header
constexpr size_t kAlignment = 64;

const Kind& Find(const std::string& dtype) {
  for (const Kind& kind : kKinds) {
    if (dtype == kind.dtype) return kind;
  }
  TVM_FFI_THROW(ValueError) << "no file format for tensors of " << dtype;
  TVM_FFI_UNREACHABLE();
}

/*! \brief The header's dictionary as numpy writes it. */
std::string Dictionary(const Border& tensor) {
  std::ostringstream text;
  text << "{'descr': '" << Find(tensor.dtype_name).descr << "', 'fortran_order': False, 'shape': (";
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    text << tensor.shape[i] << (i + 1 < tensor.shape.size() ? ", " : "");
  }
  text << (tensor.shape.size() == 1 ? ",), }" : "), }");
  return text.str();
}

}  // namespace

size_t ElementBytes(const std::string& dtype) { return Find(dtype).bytes; }

std::string ReadNpy(const std::string& path, const Border& tensor) {
  std::ifstream file(path, std::ios::binary);
  return ReadNpy(file, path, tensor);
}

std::string ReadNpy(std::istream& file, const std::string& name, const Border& tensor) {
  std::string prefix(kPrefixBytes, '\0');
  if (!file.read(prefix.data(), kPrefixBytes) ||
      prefix.substr(0, 8) != "\x93NUMPY\x01" + std::string(1, '\0')) {
    TVM_FFI_THROW(ValueError) << name << ": not an array in numpy's format 1.0";
  }
  std::string header(static_cast<uint8_t>(prefix[8]) + 256U * static_cast<uint8_t>(prefix[9]),
                     '\0');
  file.read(header.data(), static_cast<std::streamsize>(header.size()));
  header.erase(header.find_last_not_of(" \n") + 1);
  if (header != Dictionary(tensor)) {
    TVM_FFI_THROW(ValueError) << name << ": holds " << header << ", input " << tensor.name
                              << " takes " << Dictionary(tensor);
  }
  const size_t bytes = tensor.bytes;
  std::string data(bytes, '\0');
  file.read(data.data(), static_cast<std::streamsize>(bytes));
  if (static_cast<size_t>(file.gcount()) != bytes || file.peek() != EOF) {
    TVM_FFI_THROW(ValueError) << name << ": cut short, or longer than its shape";
  }
  return data;
}

void WriteNpy(const std::string& path, const Border& tensor, const std::string& bytes) {
  std::string header = Dictionary(tensor);
  header.append(kAlignment - (kPrefixBytes + header.size() + 1) % kAlignment, ' ');
  header += '\n';
  std::string prefix = "\x93NUMPY\x01" + std::string(1, '\0');
  prefix += static_cast<char>(header.size() % 256);
  prefix += static_cast<char>(header.size() / 256);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << prefix << header << bytes;
  file.close();
  if (!file) TVM_FFI_THROW(RuntimeError) << "cannot write " << path;
}

}  // namespace hetero_tvm::device
