// The processes of an MPI program, and the few things that they tell each other.
#pragma once

#include <mpi.h>

#include <limits>
#include <squat/squat.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace sharded {

using squat::Index;
using squat::Matrix;

/// All ranks make these calls, in the same order. MPI ends the program on an error.
class Ranks {
 public:
  Ranks() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &count_);
  }

  int rank() const { return rank_; }
  int count() const { return count_; }
  int last() const { return count_ - 1; }

  /// `matrix` of rank `root` becomes that of all ranks; it has the same shape on all.
  template <class T>
  void broadcast(Matrix<T>& matrix, int root) {
    const int size = bytes(matrix.size() * Index{sizeof(T)});
    MPI_Bcast(matrix.data(), size, MPI_BYTE, root, MPI_COMM_WORLD);
    sent_ += static_cast<Index>(size) * (count_ - 1);
  }

  /// The matrices of all ranks, of one shape, below one another in the order of ranks; empty but on
  /// rank `root`.
  template <class T>
  Matrix<T> gather(const Matrix<T>& own, int root) {
    Matrix<T> all(rank_ == root ? own.rows() * count_ : 0, own.cols());
    const int size = bytes(own.size() * Index{sizeof(T)});
    MPI_Gather(own.data(), size, MPI_BYTE, all.data(), size, MPI_BYTE, root, MPI_COMM_WORLD);
    received_ += static_cast<Index>(size) * (count_ - 1);
    return all;
  }

  /// Equally long strings of all ranks, in the order of ranks.
  std::vector<std::string> gather_on_all(const std::string& own) {
    std::string all(own.size() * static_cast<std::size_t>(count_), '\0');
    const int size = bytes(static_cast<Index>(own.size()));
    MPI_Allgather(own.data(), size, MPI_BYTE, all.data(), size, MPI_BYTE, MPI_COMM_WORLD);
    std::vector<std::string> strings;
    for (std::size_t at = 0; at < all.size(); at += own.size())
      strings.push_back(all.substr(at, own.size()));
    return strings;
  }

  /// `first` of the rank behind this one, of the same shape; the last rank keeps its own.
  Matrix<float> from_next(const Matrix<float>& first) {
    Matrix<float> next = first;
    const int size = bytes(first.size() * Index{sizeof(float)});
    MPI_Sendrecv(first.data(), size, MPI_BYTE, rank_ == 0 ? MPI_PROC_NULL : rank_ - 1, 0,
                 next.data(), size, MPI_BYTE, rank_ == last() ? MPI_PROC_NULL : rank_ + 1, 0,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return next;
  }

  double largest(double own) {
    double all = 0;
    MPI_Allreduce(&own, &all, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return all;
  }

  /// Bytes that all broadcasts and gathers together moved from one rank to another.
  Index broadcast_bytes() const { return sent_; }
  Index gathered_bytes() const { return received_; }

 private:
  static int bytes(Index size) {
    if (size > std::numeric_limits<int>::max())
      throw std::runtime_error("a message has " + std::to_string(size) +
                               " bytes; MPI takes 2^31 - 1");
    return static_cast<int>(size);
  }

  int rank_ = 0;
  int count_ = 0;
  Index sent_ = 0;
  Index received_ = 0;
};

}  // namespace sharded
