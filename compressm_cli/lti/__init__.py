"""PROVISIONAL - to be overwritten by the real package (written by the lti author)."""
import math
from dataclasses import dataclass
import numpy as np, scipy.linalg as sl, torch
@dataclass(frozen=True)
class Realization:
    A: torch.Tensor; B: torch.Tensor; C: torch.Tensor; D: torch.Tensor | None = None
    @property
    def order(self): return self.A.shape[0]
    @property
    def is_diagonal(self): return self.A.ndim == 1
    def dense(self): return self if self.A.ndim == 2 else Realization(torch.diag(self.A), self.B, self.C, self.D)
    def spectral_radius(self): return float((self.A if self.A.ndim==1 else torch.linalg.eigvals(self.A)).abs().max())
    def frequency_response(self, omega):
        z = torch.exp(1j*omega.double())
        return torch.einsum('qn,wn,np->wqp', self.C, 1/(z[:,None]-self.A[None]), self.B)
@dataclass(frozen=True)
class Balancing:
    hsv: torch.Tensor; left: torch.Tensor; right: torch.Tensor
def controllability_gramian(r): return (r.B@r.B.mH)/(1-r.A[:,None]*r.A.conj()[None])
def observability_gramian(r): return (r.C.mH@r.C)/(1-r.A.conj()[:,None]*r.A[None])
def real_form(r):
    a,b=r.A.real,r.A.imag
    A=torch.cat([torch.cat([torch.diag(a),-torch.diag(b)],1),torch.cat([torch.diag(b),torch.diag(a)],1)],0)
    s=math.sqrt(2)
    return Realization(A,s*torch.cat([r.B.real,r.B.imag],0),torch.cat([r.C.real,-r.C.imag],1)/s)
def _rg(lam,B):
    P=(B@B.mH)/(1-lam[:,None]*lam.conj()[None]); Pt=(B@B.mT)/(1-lam[:,None]*lam[None])
    return torch.cat([torch.cat([P.real+Pt.real, Pt.imag-P.imag],1), torch.cat([Pt.imag+P.imag, P.real-Pt.real],1)],0)
def real_gramians(r):
    return _rg(r.A,r.B), _rg(r.A.conj(), r.C.mH)/4
def _f(P):
    w,v=torch.linalg.eigh((P+P.mH)/2); k=w>w.max()*1e-15*len(w); return v[:,k]*w[k].sqrt()
def balance(P,Q):
    Lp,Lq=_f(P),_f(Q); U,S,Vh=torch.linalg.svd(Lq.mH@Lp,full_matrices=False)
    k=S>S[0]*1e-13; h=torch.zeros(P.shape[0],dtype=torch.float64); h[:len(S)]=S
    s=S[k].rsqrt()
    return Balancing(h,Lq@U[:,k]*s,Lp@Vh.mH[:,k]*s)
def project(r,W,T):
    AT = r.A[:,None]*T if r.A.ndim==1 else r.A@T
    return Realization(W.mH@AT,W.mH@r.B.to(W.dtype),r.C.to(W.dtype)@T)
def order_for_energy(h,t):
    c=torch.cumsum(h,0); k=int((c<t*h.sum()*(1-1e-14)).sum())+1
    return min(k,len(h))
def error_bound(h,k): return float(2*h[k:].sum())
def hankel_singular_values(r): return balance(controllability_gramian(r),observability_gramian(r)).hsv
def count_states(A):
    e=torch.linalg.eigvals(A); return int((e.imag>=0).sum())
@dataclass(frozen=True)
class M_: 
    poles: torch.Tensor; left: torch.Tensor; right: torch.Tensor; is_pair: torch.Tensor; condition: float
def one_of_each_pair(A):
    e,V=torch.linalg.eig(A); L=torch.linalg.inv(V).mH; k=e.imag>=0
    return M_(e[k],L[:,k],V[:,k],e.imag[k]>0,float(torch.linalg.cond(V)))
